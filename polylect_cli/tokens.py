"""The credentials of the two roles, admin and facade: set by the operator, or made once and kept.

Hides the files they are kept in, and that two that start at once make one token.
"""

import os
import secrets
from pathlib import Path
from typing import Literal

from polylect_cli.settings import Settings, SettingsError


def token(settings: Settings, role: Literal["admin", "facade"], *, make: bool = False) -> str | None:
    """Give a role's token: the one set, else the one kept in the data directory (0600).

    None when there is none yet; with `make` one is made then.
    """
    given = settings.admin_token if role == "admin" else settings.facade_token
    if given:
        return given.get_secret_value()
    path = settings.data_dir / f"{role}_token"
    if make:
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            _make_token(path)
        except OSError as error:
            raise SettingsError(
                f"POLYLECT_DATA_DIR: {settings.data_dir} can't be written ({error.strerror}): "
                "name a directory that this user may make or owns"
            ) from error
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read ({error.strerror}): set POLYLECT_{role.upper()}_TOKEN"
        ) from error


def _make_token(path: Path) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        # A link never replaces: of two that start at once, the first one's token stays.
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
