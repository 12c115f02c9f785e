"""Which option an unknown one was probably meant to be."""

from __future__ import annotations

from typing import Any

# What other tools call an option that sets nothing of a run; without dashes.
ALIASES = {
    "client": "--user",
    "force": "--yes",
    "k": "--top",
    "n": "--top",
    "nomlflow": "--no-tracking",
    "nowandb": "--no-tracking",
    "num": "--top",
    "out": "--report",
    "output": "--report",
    "silent": "--quiet",
    "y": "--yes",
    "verbose": "--debug",
}


def nearest_option(name: str, command: Any) -> str | None:
    """The option of ``command`` that ``name`` ("--lr") was probably meant to be, or ``--set KEY=VALUE`` where a setting
    has no option there; None where nothing is near enough to help.

    What other tools call a setting comes first, then words that are shared or nearly so.
    """
    from fedmm.config.describe import known_settings
    from fedmm.config.names import nearest_name, nearest_setting, synonym
    from fedmm_cli.options import FLAGS

    options = [own for parameter in command.params if not getattr(parameter, "hidden", False)
               for own in parameter.opts if own.startswith("--")]  # fmt: skip
    of_key = {flag.key: flag.name for flag in FLAGS if flag.name in options}
    typed = name.lstrip("-").replace("-", "_")
    alias = ALIASES.get(typed.replace("_", ""))
    if alias in options:
        return alias
    meant = synonym(typed)
    if meant in of_key:
        return of_key[meant]
    near = nearest_name(typed, [option.lstrip("-") for option in options])
    if near is not None:
        return f"--{near}"
    key = nearest_setting(typed, list(known_settings()))
    if key in of_key:
        return of_key[key]
    return f"--set {key}=VALUE" if key is not None and "--set" in options else None
