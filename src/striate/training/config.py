"""Settings of a run as a TOML file: a key for each, named as its option, with ``_`` for ``-``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, build, did_you_mean
from ..extras import needs
from ..files import write_atomically
from .settings import RunSettings, knobs

__all__ = ["read_config", "write_config"]


def write_config(path: str | os.PathLike[str], settings: RunSettings) -> None:
    """Writes settings as TOML, grouped, each with what it means; one without a value is a comment.

    Raises OSError, which names the file, if it cannot be written.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> write_config(folder.name + "/config.toml", RunSettings(epochs=3))
    >>> read_config(folder.name + "/config.toml")["epochs"]
    3
    """
    needs("train", "tomlkit")
    import tomlkit

    document, group = tomlkit.document(), ""
    document.add(tomlkit.comment("striate train --config FILE reads it; options of the command line win over it."))
    for name, value in settings.to_dict().items():
        knob = knobs(type(settings))[name]
        if knob.group != group:
            group = knob.group
            document.add(tomlkit.nl())
            document.add(tomlkit.comment(f"{group}"))
        if value is None:
            document.add(tomlkit.comment(f"{name} =   # {knob.help}: {knob.unset}"))
        else:
            document.add(name, tomlkit.item(value).comment(knob.help))
    write_atomically(path, tomlkit.dumps(document))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that a TOML file gives, by name.

    Raises ArgumentError, which names the file, if it is missing, no TOML, or has a key or a value that is no setting's.
    """
    needs("train", "tomlkit")
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        values: Mapping[str, Any] = tomlkit.parse(Path(path).read_text(encoding="utf-8")).unwrap()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        got = getattr(error, "strerror", None) or str(error)
        hint = "Write a setting a line, as epochs = 8."
        raise ArgumentError(build("train", "a TOML file with settings", got, file=path, hint=hint)) from None
    known = knobs(RunSettings)
    for name, value in values.items():
        if name not in known:
            near = did_you_mean(name, known)
            hint = f"Name a setting as its option, with _ for -.{near}"
            raise ArgumentError(build("train", "settings only", repr(name), file=path, hint=hint))
        known[name].check(value)
    return dict(values)
