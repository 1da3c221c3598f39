"""Certificates of an authority that lives as long as a test."""

from __future__ import annotations

import datetime
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from pacs_tasks.ae import TLS
from tests.support.scripted import Script

#: For a test of each version that we speak.
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key, each in a file of PEM, and the file of who signed it."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def tls(self) -> TLS:
        """To show this certificate, and to trust whom its own authority has signed."""
        return TLS(ca_file=str(self.authority), certificate_file=str(self.certificate), key_file=str(self.key))

    @property
    def shown(self) -> TLS:
        """To show this certificate alone."""
        return TLS(certificate_file=str(self.certificate), key_file=str(self.key))

    @property
    def trusted(self) -> TLS:
        """To trust whom its authority has signed, and to show nothing."""
        return TLS(ca_file=str(self.authority))

    @property
    def pinned(self) -> TLS:
        """To trust this certificate and no other."""
        return TLS(ca_file=str(self.certificate))

    def called(self, version: ssl.TLSVersion | None = None, callers: Path | None = None) -> ssl.SSLContext:
        """What a scripted peer that is called brings: one version of TLS only, and a demand for certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if callers is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(callers)
        return context


class Authority:
    """Signs certificates; its own is in :attr:`file`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._ca = trustme.CA(organization_name=name)
        self._directory = directory / name
        self._directory.mkdir(parents=True)
        self.file = self._directory / "authority.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def identity(self, name: str = "pacs", *hosts: str, **options: Any) -> Identity:
        """A certificate for ``hosts``; without any, for this machine."""
        leaf = self._ca.issue_cert(*(hosts or ("127.0.0.1", "localhost")), common_name=name, **options)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        key.touch(mode=0o600)
        leaf.private_key_pem.write_to_path(key)
        for number, pem in enumerate(leaf.cert_chain_pems):
            pem.write_to_path(certificate, append=number > 0)
        return Identity(certificate, key, self.file)

    def expired(self, name: str = "expired") -> Identity:
        """A certificate whose time was over yesterday."""
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        return self.identity(name, not_before=now - 2 * day, not_after=now - day)

    def not_yet(self, name: str = "not-yet") -> Identity:
        """A certificate whose time begins tomorrow."""
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        return self.identity(name, not_before=now + day, not_after=now + 2 * day)


def over_tls(context: ssl.SSLContext, script: Script) -> Script:
    """A script that shakes hands first; a handshake that fails ends it."""

    def shaking(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            script(secured)

    return shaking
