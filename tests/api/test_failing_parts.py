"""An error out of a part of a user's own names the part, its file and line and what is expected; it is no bug."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fedmm
from fedmm.config.part_errors import EXPECTED, part_error, suspects
from fedmm.config.parts import KINDS
from fedmm.config.registering import OwnEncoder, RowLoss
from fedmm.errors import PartError
from fedmm.models.blocks import Block
from fedmm.models.experts import Expert
from fedmm.models.fusion import Fusion
from fedmm.models.positions import PositionEncoding
from fedmm.testing import registered, tiny_config
from fedmm_cli.output import run_command
from worlds.encoder_world import corners, encoded


def broken(*given: Any, **named: Any) -> Any:
    raise ZeroDivisionError(f"given {len(given)}")


BROKEN_LINE = broken.__code__.co_firstlineno + 1


class BrokenExpert(Expert):
    def init(self, generator: Any) -> Any:
        return broken(generator)


class Called:
    @staticmethod
    def helper() -> None:
        broken()

    def __call__(self, *given: Any) -> Any:
        self.helper()


def needs_nothing() -> None:
    return None


WRONG: dict[str, Any] = dict.fromkeys(KINDS, broken)
WRONG["expert"] = BrokenExpert
WRONG["fusion"] = Fusion(routes_backbone=False, init=lambda config: {}, mix=broken)
WRONG["block"] = Block(init=lambda config, normal: {}, apply=broken)
WRONG["position_encoding"] = PositionEncoding(lambda config, normal: {}, broken, lambda heads: heads)
WRONG["loss"] = RowLoss(broken, pairwise=False)
WRONG["metric"] = Called()
WRONG |= dict.fromkeys(("image_encoder", "text_encoder"), OwnEncoder(broken, "mine"))
WRONG["learning_rate_schedule"] = lambda progress: broken(progress)


BESIDE: dict[str, dict[str, Any]] = {}  # what an encoder needs to be called at all


@pytest.fixture(autouse=True, scope="module")
def _pictures_and_texts(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("raw")
    ids = [f"i{number}" for number in range(40)]  # those of tiny_config
    for item in ids:
        (folder / f"{item}.png").write_bytes(encoded(corners()))
    (folder / "texts.csv").write_text("item_id,title\n" + "".join(f"{item},a word\n" for item in ids))
    BESIDE["image_encoder"] = {"images": str(folder), "visual_features": "none"}
    BESIDE["text_encoder"] = {"texts": str(folder / "texts.csv"), "text_features": "none"}


def failure(kind: str, part: Any, *, store: str | None = None) -> tuple[Exception, PartError | None]:
    """What training with a part ends in, and what is said of it."""
    key = KINDS[kind].setting
    several = kind in ("metric", "update_transform")
    with registered(kind, "mine", part, store=store):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever
            fedmm.train(
                tiny_config(**{key.replace(".", "__"): ["mine"] if several else "mine"}, **BESIDE.get(kind, {}))
            )
        return caught.value, part_error(caught.value)


def test_what_is_expected_is_known_of_every_kind() -> None:
    assert EXPECTED.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_inside_a_part_names_it(kind: str) -> None:
    error, told = failure(kind, WRONG[kind])
    assert isinstance(error, ZeroDivisionError)
    assert told is not None
    assert told.message.startswith(f"Your {KINDS[kind].word} 'mine' failed in {__file__}, line {BROKEN_LINE}: ")
    assert told.message.endswith(f"ZeroDivisionError: {error}.")
    assert EXPECTED[kind] in told.remedy
    register = next(word for word in told.remedy.split() if word.startswith("fedmm.register_")).removeprefix("fedmm.")
    assert callable(getattr(fedmm, register))


@pytest.mark.parametrize("store", [None, "robust_aggregation"])
def test_a_part_that_cannot_be_called_is_named(store: str | None) -> None:
    error, told = failure("aggregation", needs_nothing, store=store)
    assert isinstance(error, TypeError)
    assert told is not None
    assert f"{__file__}, line {needs_nothing.__code__.co_firstlineno}: TypeError: needs_nothing()" in told.message


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda total, config: None, "returned NoneType, not a dictionary."),
        (lambda total, config: {}, "returned no tensor for the parameter "),
        (lambda total, config: {**total.deltas, "x": 1}, "returned something for what is no parameter, 'x'."),
        (lambda total, config: dict.fromkeys(total.deltas, 1.0), "returned float for the parameter "),
        (lambda total, config: dict.fromkeys(total.deltas, torch.zeros(())), "returned () for the parameter "),
    ],
)
def test_an_aggregation_returns_what_the_parameters_are(rule: Callable[..., Any], words: str) -> None:
    error, _ = failure("aggregation", rule)
    assert isinstance(error, PartError)
    assert f"Your aggregation 'mine' ({__file__}) {words}" in error.message
    assert EXPECTED["aggregation"] in error.remedy


def test_an_error_elsewhere_is_nobody_elses(capsys: pytest.CaptureFixture[str]) -> None:
    """fedmm's own errors stay bugs, said so where no part of a user's own could have a share in it."""

    def bug() -> None:
        raise KeyError("lost")

    assert run_command(bug, ["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["message"] == "This is a bug in fedmm: KeyError: 'lost'"
    with registered("aggregation", "mine", needs_nothing):
        assert run_command(bug, ["--json"]) == 1
        said = json.loads(capsys.readouterr().out)["error"]
        assert (said["code"], said["message"]) == ("bug", f"KeyError: 'lost' (with your {suspects()})")
        assert "fedmm.testing" in said["remedy"]
        assert run_command(needs_nothing.__get__(1), ["--json"]) == 1  # called as it cannot be
        said = json.loads(capsys.readouterr().out)["error"]
        assert said["code"] == "part"
        assert said["message"].startswith("Your aggregation 'mine' failed in ")
