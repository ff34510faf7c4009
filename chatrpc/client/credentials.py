"""Who calls, and for whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from chatrpc.errors import InvalidInput

# Gives a token that is valid for a while yet; asked before each call and each stream, so it keeps the token itself.
TokenSource = Callable[[], Awaitable[str]]

Metadata = tuple[tuple[str, str], ...]


class Credentials:
    """Args: on_behalf_of: Subject of the user to act for, or None; needs a token with the scope `chat.act_as`."""

    def __init__(self, token: str | TokenSource, on_behalf_of: str | None) -> None:
        self._token = token
        self._act_as: Metadata = ()
        if on_behalf_of is not None:
            if not _fits_metadata(on_behalf_of):
                raise InvalidInput("on_behalf_of", "on_behalf_of must be printable ASCII; give the user's subject.")
            self._act_as = (("x-chatrpc-on-behalf-of", on_behalf_of),)

    @property
    def renewable(self) -> bool:
        """Whether a token that expires is followed by another."""
        return not isinstance(self._token, str)

    async def metadata(self) -> Metadata:
        """What a call bears.

        Raises:
            InvalidInput: The token is empty or bears characters that no token has.
        """
        token = self._token if isinstance(self._token, str) else await self._token()
        if not _fits_metadata(token):
            raise InvalidInput("token", "The token is empty or has characters that no token has; copy it whole.")
        return (("authorization", f"Bearer {token}"), *self._act_as)

    async def replaced(self, used: Metadata) -> bool:
        """Whether there is another token than the one used."""
        return self.renewable and await self.metadata() != used


def _fits_metadata(value: str) -> bool:
    return value.isascii() and value.isprintable() and bool(value.strip())
