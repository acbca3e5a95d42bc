"""security/sealing.py: what is sealed is opened by the keys at hand or not at all, and plain things stay as they are."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ConfigError, load_settings
from security.sealing import PLAIN, SEALED, CannotOpen, Sealing

# A machine that is busy with other things is no failure.
STEADY = settings(derandomize=True, deadline=None)
# Of no installation: the same in each run.
ONE, OTHER = (base64.urlsafe_b64encode(bytes([number]) * 31 + b"x").decode() for number in (7, 9))
texts = st.text() | st.sampled_from(["sealed:", "plain:", "plain:sealed:x", "sealed:gAAAAA"]) | st.text(
    st.characters(categories=["Cs"]), max_size=3
)  # fmt: skip


@STEADY
@given(texts)
def test_every_text_comes_back_with_keys_and_without(text):
    for sealing in (Sealing(), Sealing([ONE]), Sealing([OTHER, ONE])):
        assert sealing.open_text(sealing.seal_text(text), "x") == text


@STEADY
@given(texts)
def test_what_was_plain_before_there_were_keys_is_read_with_them(text):
    assert Sealing([ONE]).open_text(Sealing().seal_text(text), "x") == text


def test_the_newest_key_seals_and_every_key_opens():
    old = Sealing([ONE]).seal(b"text")
    both = Sealing([OTHER, ONE])
    assert both.open(old, "x") == b"text"
    assert not both.is_newest(old)
    new = both.seal(b"text")
    assert both.is_newest(new)
    assert Sealing([OTHER]).open(new, "x") == b"text"


def test_the_same_text_is_sealed_differently_each_time_and_none_of_it_shows():
    sealing = Sealing([ONE])
    first, second = sealing.seal(b"a text"), sealing.seal(b"a text")
    assert first != second
    assert first.startswith(SEALED)
    assert b"a text" not in first


def test_a_lost_key_and_a_changed_seal_are_told_with_their_place_and_nothing_else():
    kept = Sealing([ONE]).seal(b"a text")
    forged = kept[:-2] + (b"AA" if kept[-2:] != b"AA" else b"BB")
    for sealing, value in (
        (Sealing([OTHER]), kept),
        (Sealing(), kept),
        (Sealing([ONE]), forged),
        (Sealing([ONE]), SEALED + b"\xff not even base64"),
        (Sealing([ONE]), SEALED),
    ):
        with pytest.raises(CannotOpen) as closed:
            sealing.open(value, "requests 17")
        assert str(closed.value).startswith("requests 17 cannot be opened by any key of ENCRYPTION_KEYS.")
        assert "a text" not in str(closed.value)


def test_without_keys_only_what_might_be_mistaken_is_marked():
    assert Sealing().seal(b"text") == b"text"
    assert Sealing().seal(SEALED + b"x") == PLAIN + SEALED + b"x"


# The setting.


def test_the_setting_lists_keys_the_newest_first():
    assert load_settings({"ENCRYPTION_KEYS": f" {ONE}, {OTHER} "}, None).encryption_keys == (ONE, OTHER)


@pytest.mark.parametrize(
    "wrong", ["secret", ONE[:-2], f"{ONE},x", f"{ONE[:-1]}!", ONE * 2, "\xe9" * 44, ",", ", ,"]
)
def test_a_wrong_key_stops_the_start_with_one_sentence_and_never_its_value(wrong):
    with pytest.raises(ConfigError) as refusal:
        load_settings({"ENCRYPTION_KEYS": wrong}, None)
    sentence = str(refusal.value)
    assert sentence.startswith("ENCRYPTION_KEYS must list keys as `python cli.py new-encryption-key` prints")
    assert ONE[:8] not in sentence
    assert "\n" not in sentence


def test_keys_are_secrets_and_show_nowhere():
    settings = load_settings({"ENCRYPTION_KEYS": ONE}, None)
    assert ONE not in repr(settings)
    assert ONE in settings.secrets
