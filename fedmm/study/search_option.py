"""``--search``: one parameter in a line of text."""

from __future__ import annotations

from typing import Any

from fedmm.errors import ConfigError
from fedmm.study.parameters import Entry, make_parameter
from fedmm.study.space import Parameter
from fedmm.study.values import known, require_variable, shown

SEARCH = "--search"
FORMS = (
    "Write for example: --search model.hidden_dim=32,64,128, --search federation.learning_rate=1e-3:1e0:log or "
    "--search model.hidden_dim=32:128:step=32"
)


def parse_search(text: str) -> Parameter:
    """``model.hidden_dim=32,64,128``, ``federation.learning_rate=1e-3:1e0:log`` or ``model.hidden_dim=32:128:step=32``.

    Raises ConfigError with the text and the forms that there are, or what the setting takes.
    """
    key, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not key or not written:
        raise ConfigError(f"{SEARCH} {shown(text)} has no key=values.", FORMS)
    require_variable(key, SEARCH)
    if known(key, SEARCH).kind in ("integer", "number") and ":" in written:
        return make_parameter(key, _range(text, written), SEARCH)
    choices = [part.strip() for part in written.split(",")]
    if "" in choices:
        raise ConfigError(f"{SEARCH} {shown(text)} has an empty choice.", FORMS)
    return make_parameter(key, Entry(choices=choices), SEARCH)


def _range(text: str, written: str) -> Entry:
    low, high, *rest = (part.strip() for part in written.split(":"))
    given: dict[str, Any] = {"low": low, "high": high}
    for word in rest:
        name, equals, value = (part.strip() for part in word.partition("="))
        if name == "log" and not equals and "log" not in given:
            given["log"] = True
        elif name == "step" and equals and "step" not in given:
            given["step"] = _number(value)
        else:
            raise ConfigError(f"{SEARCH} {shown(text)} has {shown(word)} after its range.", FORMS)
    return Entry(**given)


def _number(text: str) -> Any:
    """The number that ``text`` is; other text is kept and refused where steps are."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
