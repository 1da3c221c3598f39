"""The help of all commands in Chinese. It is imported where people read Chinese."""

from __future__ import annotations

import gettext
import inspect
import os

import click

from pacs_tasks.cli.declarations import HELP_OPTIONS
from pacs_tasks.cli.language import translated, widened
from pacs_tasks.locale.catalogue import DOMAIN, LOCALE


def translate_help(command: click.Command) -> None:
    """Translate what a command and its own commands say in their help, and the words that click adds."""
    # Click looks its words up in the catalogue of the current domain, in the language that this variable names.
    os.environ["LANGUAGE"] = "zh"
    gettext.bindtextdomain(DOMAIN, str(LOCALE))
    gettext.textdomain(DOMAIN)
    _translate(command)


def _translate(command: click.Command) -> None:
    command.epilog = _text(command.epilog)
    # Click shortens a text at spaces, of which Chinese has none.
    command.short_help = (_text(command.help) or "").partition("。")[0]
    command.help = _text(command.help)
    # Click keeps the option for help that it makes here.
    for param in command.get_params(click.Context(command, help_option_names=HELP_OPTIONS)):
        if isinstance(param, click.Option):
            param.help = _text(param.help)
            if isinstance(param.show_default, str):
                param.show_default = _text(param.show_default) or ""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _translate(each)


def _text(text: str | None) -> str | None:
    if not text or widened(text) != text:
        # The options that all commands share were translated with the first of them.
        return text
    # Up to Python 3.12, a docstring keeps the indentation that it has in the source.
    text = inspect.cleandoc(text)
    known = translated(text)
    return widened(known if known != text else translated(" ".join(text.split())))
