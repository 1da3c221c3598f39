"""The extras of ``pip install pacs-tasks``: which one brings a package that is not installed.

A client of a fleet needs none of them. Whatever needs one imports it when it is used.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from types import MappingProxyType

from pacs_tasks.errors import ConfigurationError

#: The packages by extra, as pyproject.toml has them. The first extra with a package is the one to install.
EXTRAS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "query": ("pydicom",),
        "encryption": ("cryptography",),
        "worker": ("celery", "kombu", "pydicom", "pynetdicom", "prometheus_client"),
        "flower": ("flower", "tornado"),
        "serve": ("fastapi", "starlette", "uvicorn", "jinja2", "python_multipart"),
        "s3": ("fsspec", "s3fs"),
        "otel": ("opentelemetry",),
    }
)


def installed(extra: str) -> bool:
    """Report whether the packages of an extra are installed."""
    return not any(map(_absent, EXTRAS[extra]))


def require(extra: str) -> None:
    """Raise unless the packages of an extra are installed.

    Raises
    ------
    ConfigurationError
        If one is missing; the message names it and the extra.
    """
    for package in EXTRAS[extra]:
        if _absent(package):
            raise _missing(package, extra)


def missing_extra(error: BaseException) -> ConfigurationError | None:
    """Return which extra to install after an import has failed; None for any other error."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extra = next((name for name, packages in EXTRAS.items() if package in packages), None)
    return None if extra is None else _missing(package, extra)


def _absent(package: str) -> bool:
    # kombu replaces itself by a module that has no specification.
    return package not in sys.modules and importlib.util.find_spec(package) is None


def _missing(package: str, extra: str) -> ConfigurationError:
    return ConfigurationError(f"{package} is not installed. Run `pip install 'pacs-tasks[{extra}]'`, which brings it.")
