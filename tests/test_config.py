"""Settings: where they come from, and the one sentence that a wrong one earns."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields
from decimal import Decimal
from secrets import token_urlsafe

import pytest

from config import LIBRARY_SWITCHES, ConfigError, Settings, disarm_libraries, load_settings

KEY = "-".join(["a", "key", "for", "this", "test"])

WRONG = [
    ("LLM_TIMEOUT_SECONDS", "soonish"),
    ("LLM_TIMEOUT_SECONDS", "0.01"),
    ("LLM_TIMEOUT_SECONDS", "nan"),
    ("LLM_TIMEOUT_SECONDS", "inf"),
    ("LLM_PROVIDERS", "gemini,mistral"),
    ("LLM_PROVIDERS", "openai,gemini,OpenAI"),
    ("LLM_MAX_ATTEMPTS", "zero"),
    ("LLM_MAX_ATTEMPTS", "-7"),
    ("LLM_MAX_ATTEMPTS", "2.5"),
    ("MAX_OUTPUT_TOKENS", "plenty"),
    ("MAX_PROMPT_CHARS", "-77"),
    ("PORT", "65536"),
    ("PORT", "-77"),
    ("PORT", "http"),
    ("THREADS", "3"),
    ("THREADS", "9999"),
    ("UPSTREAM_CONCURRENCY", "-77"),
    ("MAX_QUEUE", "endless"),
    ("DRAIN_SECONDS", "-77"),
    ("AUTH", "jwt-please"),
    ("API_KEY_PEPPER", "too-short"),
    ("API_KEY_PEPPER", "a" * 64),
    ("API_KEY_PEPPER", "change-me-change-me-change-me-change-me-0123456789"),
    ("JWT_SECRET_KEY", "too-short"),
    ("JWT_SECRET_KEY", "your-secret-key-0123456789-0123456789-0123456789"),
    ("JWT_SECRET_KEY", "0123456789abcdef0123456789abcdef,too-short"),
    ("ADMIN_BOOTSTRAP_TOKEN", "too-short"),
    ("ADMIN_BOOTSTRAP_TOKEN", "0123456789abcdef 0123456789abcdef"),
    ("ACCESS_TOKEN_SECONDS", "7200"),
    ("REFRESH_TOKEN_SECONDS", "for-ever"),
    ("OIDC_JWKS_URL", "ftp://issuer.example/keys"),
    ("OIDC_JWKS_URL", "http://127.0.0.1.example.org/keys"),
    ("ALLOW_ANONYMOUS", "perhaps"),
    ("TRUSTED_PROXIES", "77"),
    ("TRUSTED_PROXIES", "all-of-them"),
    ("CACHE_MAX_SIZE", "-77"),
    ("CACHE_TTL_SECONDS", "never"),
    ("CACHE_MAX_BYTES", "64MB"),
    ("RATE_LIMIT", "now and then"),
    ("RATE_LIMIT", "10 per 00 minutes"),
    ("RATE_LIMIT", "10 per minute; 0 per day"),
    ("RATE_LIMIT_READS", "now and then"),
    ("RATE_LIMIT_READS", "10 per 2 years"),
    ("RATE_LIMIT_MAX_KEYS", "few"),
    ("LOG_MAX_BYTES", "4095"),
    ("LOG_BACKUPS", "-77"),
    ("PROMPT_LOG", "everything"),
    ("THREAT_MODE", "scream"),
    ("GEMINI_BASE_URL", "http://example.org"),
    ("GEMINI_BASE_URL", "http://127.0.0.1.example.org:80"),
    ("GEMINI_BASE_URL", "http://localhost@example.org"),
    ("GEMINI_BASE_URL", "ftp://localhost"),
    ("GEMINI_BASE_URL", "example.org"),
    ("GEMINI_BASE_URL", "https://"),
    ("GEMINI_BASE_URL", "http://[::1"),
    ("GEMINI_BASE_URL", "https://example.org:port"),
    ("OPENAI_BASE_URL", "http://ollama:11434/v1"),
    ("OPENAI_BASE_URL", "ollama:11434"),
    ("OPENAI_API_KEY", "two words"),
    ("ANTHROPIC_BASE_URL", "http://example.org"),
    ("ANTHROPIC_API_KEY", "Bearer of-a-key"),
    ("ALLOW_HTTP_PROVIDERS", "perhaps"),
    ("CORS_ORIGINS", "*"),
    ("CORS_ORIGINS", "https://a.example, *"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_stops_the_start_and_the_sentence_names_the_variable_only(name, value):
    with pytest.raises(ConfigError) as refusal:
        load_settings({"GOOGLE_API_KEY": KEY, name: value}, None)
    sentence = str(refusal.value)
    assert sentence.startswith(name)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert KEY not in sentence
    numbers = {"3", "9999", "65536", "0.01", "7200"}
    assert value in {*numbers, "*", "https://"} or value not in sentence
    assert refusal.value.__cause__ is None


def test_a_wrong_value_in_the_file_is_refused_too(tmp_path):
    (tmp_path / ".env").write_text("PORT=http\n")
    with pytest.raises(ConfigError, match=r"^PORT "):
        load_settings({}, tmp_path / ".env")


@pytest.mark.parametrize(
    "origin",
    ["https://*.example.org", "http://(a|b).example", "https://app.example.org/path", "app.example.org"],
)
def test_an_origin_is_a_scheme_a_host_and_a_port_and_never_a_pattern(origin):
    """The library behind it would read patterns as regular expressions, open at their end."""
    with pytest.raises(ConfigError, match=r"^CORS_ORIGINS "):
        load_settings({"CORS_ORIGINS": origin}, None)


def test_a_file_that_is_no_text_is_one_sentence(tmp_path):
    (tmp_path / ".env").write_bytes(b"GOOGLE_API_KEY=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env"):
        load_settings({}, tmp_path / ".env")


def test_settings_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="UPSTREAM_CONCURRENCY must be smaller than THREADS"):
        load_settings({"THREADS": "8", "UPSTREAM_CONCURRENCY": "8"}, None)
    with pytest.raises(ConfigError, match="GOOGLE_API_KEY"):
        load_settings({"GEMINI_BASE_URL": "https://example.org"}, None)
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        load_settings({"ANTHROPIC_BASE_URL": "https://example.org"}, None)
    assert load_settings({"THREADS": "8", "UPSTREAM_CONCURRENCY": "7"}, None).threads == 8


def test_a_server_that_speaks_openais_protocol_may_ask_for_no_key():
    settings = load_settings({"OPENAI_BASE_URL": "http://localhost:11434/v1/"}, None)
    assert (settings.openai_base_url, settings.openai_api_key) == ("http://localhost:11434/v1", "")


def test_plain_http_to_another_machine_has_to_be_allowed_in_words():
    elsewhere = {"OPENAI_BASE_URL": "http://ollama:11434/v1"}
    with pytest.raises(ConfigError, match="ALLOW_HTTP_PROVIDERS"):
        load_settings(elsewhere, None)
    allowed = load_settings({**elsewhere, "ALLOW_HTTP_PROVIDERS": "true"}, None)
    assert allowed.openai_base_url == elsewhere["OPENAI_BASE_URL"]
    with pytest.raises(ConfigError, match=r"^OPENAI_BASE_URL "):
        load_settings({"OPENAI_BASE_URL": "ftp://ollama", "ALLOW_HTTP_PROVIDERS": "true"}, None)


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=6001\nTHREADS=97\nGEMINI_MODEL=from-file\n")
    settings = load_settings({"PORT": "6002", "GEMINI_MODEL": ""}, dotenv)
    assert (settings.port, settings.threads, settings.max_queue) == (6002, 97, 200)
    assert settings.gemini_model == Settings().gemini_model, (
        "an empty value in the environment is the default"
    )


def test_an_empty_or_missing_value_means_the_default(tmp_path):
    names = [field.name.upper() for field in fields(Settings)]
    assert load_settings({}, None) == load_settings(dict.fromkeys(names, " "), None) == Settings()
    (tmp_path / ".env").write_text("\n".join(f"{name}=" for name in names))
    assert load_settings({}, tmp_path / ".env") == Settings()
    assert load_settings({}, tmp_path / "missing") == Settings()
    assert load_settings({"SOMETHING_ELSE": "x"}, None) == Settings()


def test_the_real_environment_is_read_unless_another_is_given(monkeypatch):
    monkeypatch.setenv("PORT", "6003")
    assert load_settings(dotenv=None).port == 6003
    assert load_settings({}, None).port == 5000


def test_reading_the_file_leaves_the_environment_as_it_was(tmp_path):
    (tmp_path / ".env").write_text("GOOGLE_API_KEY=x\nA_NAME_FOR_THIS_TEST=y\n")
    before = dict(os.environ)
    load_settings(None, tmp_path / ".env")
    assert dict(os.environ) == before


def test_values_become_what_they_mean():
    settings = load_settings(
        {
            "ALLOW_ANONYMOUS": "Yes",
            "CORS_ORIGINS": " https://a.example , https://b.example,",
            "GEMINI_FALLBACK_MODELS": "one, two",
            "CACHE_TTL_SECONDS": "0",
            "LLM_TIMEOUT_SECONDS": "2.5",
            "PROMPT_LOG": "FULL",
        },
        None,
    )
    assert settings.allow_anonymous is True
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.gemini_fallback_models == ("one", "two")
    assert (settings.cache_ttl_seconds, settings.llm_timeout_seconds) == (0, Decimal("2.5"))
    assert settings.prompt_log == "full"
    assert load_settings({"ALLOW_ANONYMOUS": "off"}, None).allow_anonymous is False


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/",
        "https://example.org:8443/gemini",
        "http://127.0.0.1:8000",
        "http://localhost:1",
        "http://[::1]:9/",
    ],
)
def test_base_addresses_that_are_safe_are_accepted(url):
    settings = load_settings({"GOOGLE_API_KEY": KEY, "GEMINI_BASE_URL": url}, None)
    assert settings.gemini_base_url == url.rstrip("/")


def test_the_key_decides_the_mode_and_is_not_shown():
    settings = load_settings({"GOOGLE_API_KEY": f" {KEY}\n"}, None)
    assert (settings.mode, settings.google_api_key, settings.secrets) == ("live", KEY, (KEY,))
    assert KEY not in repr(settings)
    assert KEY not in str(settings)
    assert (Settings().mode, Settings().secrets) == ("sandbox", ())


def test_every_secret_of_accounts_is_a_secret():
    names = ("API_KEY_PEPPER", "JWT_SECRET_KEY", "ADMIN_BOOTSTRAP_TOKEN")
    made = [token_urlsafe(32) for _ in range(4)]
    given = dict(zip(names, (made[0], f"{made[1]}, {made[2]}", made[3]), strict=True))
    settings = load_settings(given, None)
    assert settings.jwt_secret_key == (made[1], made[2])
    assert set(settings.secrets) == set(made)
    assert not [secret for secret in made if secret in repr(settings)]
    assert Settings().jwt_secret_key == ()
    assert Settings().api_key_pepper == Settings().admin_bootstrap_token == ""


def test_instances_that_share_a_database_must_share_their_secrets():
    shared = {"AUTH": "required", "DATABASE_URL": "postgresql+psycopg://a@127.0.0.1/b"}
    with pytest.raises(ConfigError, match=r"^API_KEY_PEPPER "):
        load_settings(shared, None)
    with pytest.raises(ConfigError, match=r"^JWT_SECRET_KEY "):
        load_settings(shared | {"API_KEY_PEPPER": token_urlsafe(32)}, None)
    both = {"API_KEY_PEPPER": token_urlsafe(32), "JWT_SECRET_KEY": token_urlsafe(32)}
    assert load_settings(shared | both, None).auth == "required"
    assert load_settings({"AUTH": "required"}, None).auth == "required"


def test_another_issuer_is_set_as_a_whole_or_not_at_all():
    whole = {"OIDC_ISSUER": "x", "OIDC_AUDIENCE": "y", "OIDC_JWKS_URL": "https://issuer.example/keys"}
    with pytest.raises(ConfigError, match=r"^OIDC_ORGANISATION .*OIDC_ORGANISATION_CLAIM"):
        load_settings(whole, None)
    assert load_settings(whole | {"OIDC_ORGANISATION_CLAIM": "tenant"}, None).oidc_organisation == ""
    whole |= {"OIDC_ORGANISATION": "main"}
    assert load_settings(whole, None).oidc_organisation_claim == ""
    for left_out in ("OIDC_ISSUER", "OIDC_AUDIENCE", "OIDC_JWKS_URL"):
        with pytest.raises(ConfigError, match="OIDC_ISSUER, OIDC_AUDIENCE and OIDC_JWKS_URL"):
            load_settings({**whole, left_out: ""}, None)
    with pytest.raises(ConfigError, match="OIDC_JWKS_URL"):
        load_settings({**whole, "OIDC_JWKS_URL": "http://issuer.example/keys"}, None)


@pytest.mark.parametrize("name", ["google", "openai", "anthropic"])
def test_every_providers_key_is_a_secret(name):
    settings = load_settings({f"{name.upper()}_API_KEY": KEY}, None)
    assert settings.secrets == (KEY,)
    assert KEY not in repr(settings)


def test_providers_at_hand_are_those_with_a_key_in_the_order_that_was_set():
    keys = {f"{name}_API_KEY": KEY for name in ("GOOGLE", "OPENAI", "ANTHROPIC")}
    assert load_settings(keys, None).providers_at_hand == ("gemini", "openai", "anthropic")
    ordered = load_settings(keys | {"LLM_PROVIDERS": "Anthropic, gemini"}, None)
    assert (ordered.providers_at_hand, ordered.mode) == (("anthropic", "gemini"), "live")
    assert load_settings({"ANTHROPIC_API_KEY": KEY}, None).providers_at_hand == ("anthropic",)
    own = load_settings({"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1"}, None)
    assert (own.providers_at_hand, own.mode) == (("openai",), "live")


def test_a_key_of_a_provider_that_is_left_out_is_a_mistake_and_no_way_into_the_sandbox():
    with pytest.raises(ConfigError, match=r"^LLM_PROVIDERS "):
        load_settings({"GOOGLE_API_KEY": KEY, "LLM_PROVIDERS": "openai"}, None)
    assert load_settings({"LLM_PROVIDERS": "openai"}, None).mode == "sandbox"


def test_no_secret_has_a_default():
    assert Settings().google_api_key == Settings().openai_api_key == Settings().anthropic_api_key == ""


def test_settings_can_not_be_changed():
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("", False)],
)
def test_only_this_machine_is_loopback(host, loopback):
    settings = Settings(host=host)
    assert settings.on_loopback is loopback
    assert (settings.accepted_hosts is not None) is loopback


def test_switches_by_which_libraries_would_go_elsewhere_are_disarmed():
    environ = dict.fromkeys(LIBRARY_SWITCHES, "true") | {"PATH": "/bin"}
    disarm_libraries(environ)
    assert environ == {"PATH": "/bin"}
    assert {"GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GEMINI_BASE_URL", "LANGSMITH_TRACING"} <= set(
        LIBRARY_SWITCHES
    )


def test_calls_stay_where_the_settings_send_them_whatever_the_environment_says(
    make_house, upstream, monkeypatch
):
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    response = make_house().post("text", {"prompt": "Where does this go?"})
    assert response.status_code == 200
    assert [call.prompt for call in upstream.journal] == ["Where does this go?"]
