"""Our own tokens: JSON Web Tokens under HS256, and nothing else."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ISSUER = AUDIENCE = "llm_platform"
ACCESS, REFRESH = "access", "refresh"
LEEWAY_SECONDS = 10
LONGEST_TOKEN = 4096
# Whatever else a token says of itself, such as where its key is found, makes it none of ours.
HEADER = {"alg": "HS256", "typ": "JWT"}
CLAIMS = ("exp", "iat", "aud", "iss", "sub", "jti")


class BadToken(Exception):
    """The token is not good. reason: a word for the audit log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    user_id: str
    session_id: str
    token_id: str
    expires: float


class TokenSigner:
    """keys: the newest first; it signs, and all of them are good for tokens that are there."""

    def __init__(self, keys: Callable[[], Sequence[bytes]], clock: Callable[[], float] = time.time) -> None:
        self.keys, self._clock = keys, clock

    def sign(self, use: str, user_id: str, session_id: str, seconds: float, token_id: str = "") -> str:
        import jwt

        now = self._clock()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": user_id,
            "jti": token_id or secrets.token_hex(8),
            "iat": int(now),
            "exp": int(now + seconds),
            "sid": session_id,
            "use": use,
        }
        return jwt.encode(claims, self.keys()[0], "HS256")

    def read(self, token: str, uses: Sequence[str]) -> Claims:
        """The claims of a token that is good and meant for one of these uses. Raises BadToken."""
        if len(token) > LONGEST_TOKEN:
            raise BadToken("length")
        claims = self._verified(token)
        if claims.get("use") not in uses:
            raise BadToken("use")
        if not isinstance(claims.get("sid"), str):
            raise BadToken("claims")
        return Claims(claims["sub"], claims["sid"], claims["jti"], claims["exp"])

    def _verified(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            if jwt.get_unverified_header(token) != HEADER:
                raise BadToken("header")
            for key in self.keys():
                try:
                    return _decoded(token, key)
                except jwt.InvalidSignatureError:
                    continue
        except jwt.ExpiredSignatureError:
            raise BadToken("expired") from None
        except (jwt.PyJWTError, ValueError):
            raise BadToken("token") from None
        raise BadToken("signature")


def _decoded(token: str, key: bytes) -> dict[str, Any]:
    import jwt

    return jwt.decode(
        token,
        key,
        algorithms=["HS256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=LEEWAY_SECONDS,
        options={"require": list(CLAIMS), "strict_aud": True},
    )
