"""What commands hand on, print and return."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fedmm.config import ExperimentConfig
from fedmm.config.describe import known_settings
from fedmm.config.load import dump_toml, load_config
from fedmm.errors import StorageError
from fedmm.testing import registered
from fedmm.utils.interrupts import Interrupted
from fedmm_cli.old_options import OLD_OPTIONS
from fedmm_cli.options import FLAGS, PROTOCOLS


def test_without_a_command_the_help_is_shown(run) -> None:
    for arguments in ([], ["config"], ["data"], ["--help"], ["-h"], ["train", "--help"], ["evaluate", "-h"]):
        ended = run(*arguments)
        assert ended.code == 0
        assert "Usage" in ended.stdout
        assert ended.stderr == ""
    assert run("--version").stdout == "fedmm 0.1.0\n"


def test_the_help_of_train_shows_every_flag_with_its_default_and_no_old_name(run) -> None:
    page = run("train", "--help").stdout
    for flag in FLAGS:
        assert f"{flag.name} " in page
        setting = known_settings()[flag.key]
        if flag.constant is None and flag.name != "--eval":
            assert not setting.choices or ", ".join(setting.choices) in page
    assert "Default: 30." in page
    for name in OLD_OPTIONS:
        assert f"{name} " not in page


def test_a_page_of_help_names_the_parts_there_are_when_it_is_asked_for(run) -> None:
    """The command line is made once in a process; what its pages say of parts is not kept."""
    before = run("train", "--help").stdout
    with registered("aggregation", "of_mine", lambda *_: None):
        assert "of_mine" in run("train", "--help").stdout
    assert "of_mine" not in before
    assert run("train", "--help").stdout == before


def test_start_up_loads_nothing_heavy() -> None:
    program = (
        "import sys; from fedmm_cli.app import main; code = main(['--help']); "
        "heavy = {'torch', 'mlflow', 'pandas', 'pydantic', 'optuna', 'matplotlib', 'pyarrow', 'numpy'}; "
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules)))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_flag_sets_its_setting(run) -> None:
    words = {"--eval": "full", "--hidden-dim": "66", "--local-epochs": "3", "--columns": "user,item,-,timestamp"}
    for flag in FLAGS:
        setting = known_settings()[flag.key]
        if flag.constant is not None:
            typed, expected = [flag.name], flag.constant
        else:
            numbers = {"integer": "4", "number": "0.25"}
            value = words.get(flag.name) or (
                setting.choices[-1] if setting.choices else numbers.get(setting.kind, "cpu")
            )
            typed, expected = [flag.name, value], PROTOCOLS.get(value, value)
        own = ["--data", "own.csv"]
        beside = {"--scoring": ["--experts", "memory"], "--start-from": own, "--ray-address": ["--engine", "cluster"]}
        more = (
            own if flag.key in {"data.split", "data.validation", "data.test", "data.sql"} else beside.get(flag.name, [])
        )
        ended = run("config", "show", *typed, *more, "--json")
        assert ended.code == 0, ended.stderr
        shown = json.loads(ended.stdout)["settings"]
        assert str(shown[flag.key]) == str(list(expected) if isinstance(expected, tuple) else expected)
        changed = {key for key, own in ExperimentConfig().flat().items() if own != shown[key]}
        changed -= {"model.gate_start"} if flag.key == "model.gating_init" else set()  # "given", by naming it
        assert changed <= {flag.key, *(["model.experts", "runtime.engine", "data.path", "data.split"] if more else [])}


def test_layers_reach_the_run_in_their_order(run, fake_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[federation]\nrounds = 11\nbatch_size = 11\n[model]\nhidden_dim = 12\nnum_blocks = 1\n")
    monkeypatch.setenv("FEDMM_FEDERATION__ROUNDS", "22")
    monkeypatch.setenv("FEDMM_MODEL__HIDDEN_DIM", "22")
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path))
    ended = run(
        "train", "--config", str(path), "--set", "federation.rounds=33", "--set", "model.dropout=0.5", "--rounds", "44"
    )
    assert ended.code == 0, ended.stderr
    config = fake_runs.config
    assert (config.federation.rounds, config.federation.batch_size) == (44, 11)
    assert (config.model.hidden_dim, config.model.num_blocks, config.model.dropout) == (22, 1, 0.5)
    assert fake_runs.resume is False


def test_eval_picks_a_metric_that_is_measured_unless_one_was_named(run, fake_runs) -> None:
    for word, metric in (("full", "full"), ("both", "full"), ("sampled", "uniform100")):
        assert run("train", "--eval", word).code == 0
        assert fake_runs.config.evaluation.protocols == PROTOCOLS[word]
        assert fake_runs.config.evaluation.selection_metric == f"{metric}/ndcg_at_10"
    assert run("train", "--eval", "sampled", "--set", "evaluation.selection_metric=popularity100/hr_at_5").code == 0
    assert fake_runs.config.evaluation.selection_metric == "popularity100/hr_at_5"


OLD_AND_NEW = [
    (
        "--num_rounds 30 --client_fraction 0.2 --learning_rate 0.001 --batch_size 32 --gating_init 0.1",
        "--rounds 30 --client-fraction 0.2 --learning-rate 0.001 --batch-size 32 --gating-init 0.1 "
        "--local-optimizer adam --server-optimizer sgd --set federation.ema_decay=0",
    ),
    ("--partial_aggregation_warmup_rounds 20", "--warmup-rounds 20"),
    ("--use_negative_sampling False", "--eval full"),
    ("--use_negative_sampling True", "--eval sampled"),
    ("--sasrec_hidden_dim 512 --sasrec_num_blocks 3 --num_rounds 50", "--hidden-dim 512 --num-blocks 3 --rounds 50"),
    ("--data_dir d/x --data_file y.txt --visual_file v.npy --text_file t.npy --save_dir out",
     "--data d/x/y.txt --visual-features v.npy --text-features t.npy --output out"),
    ("--data_file y.txt", "--data y.txt"),
    ("--learning_rate 0.1 --local-optimizer sgd", "--learning-rate 0.1 --server-optimizer sgd "
     "--set federation.ema_decay=0"),
    ("--learning_rate 0.1 --set federation.local_optimizer=adamw", "--learning-rate 0.1 --local-optimizer adamw "
     "--server-optimizer sgd --set federation.ema_decay=0"),
    ("--learning_rate 0.1 --server-optimizer yogi",
     "--learning-rate 0.1 --local-optimizer adam --server-optimizer yogi --set federation.ema_decay=0"),
    ("--learning_rate 0.1 --set federation.ema_decay=0.5",
     "--learning-rate 0.1 --local-optimizer adam --server-optimizer sgd --set federation.ema_decay=0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW)
def test_old_names_mean_what_they_meant_and_say_what_they_are_now(
    old: str, new: str, run, fake_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d/x/y.txt", "y.txt", "v.npy", "t.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ended = run("train", *old.split())
    assert ended.code == 0, ended.stderr
    translated = fake_runs.config
    notes = [line for line in ended.stderr.splitlines() if line.startswith("note: ")]
    for name in (word for word in old.split() if word in OLD_OPTIONS):
        assert sum(f"{name} is now {OLD_OPTIONS[name][0]}" in note for note in notes) == 1
    assert any("local Adam" in note for note in notes) == ("--learning_rate" in old.split())
    assert run("train", *new.split()).stderr.count("note: ") == 0
    assert fake_runs.config == translated


def test_train_prints_progress_on_stderr_and_the_result_on_stdout(run, fake_runs) -> None:
    ended = run("train")
    assert ended.code == 0
    rounds = [line for line in ended.stderr.splitlines() if line.startswith("round ")]
    assert [line.split()[1] for line in rounds] == ["1/3", "2/3", "3/3"]
    assert rounds[0].endswith("best warm-up")
    assert "val full NDCG@10 0.1000" in rounds[1]
    assert "val" not in rounds[2]
    assert "warning: a warning in [brackets]" in ended.stderr
    assert "Test, full ranking: 597 users" in ended.stdout


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--data", "There is no file {}."),
        ("--visual-features", "There is no file {} of visual features."),
        ("--text-features", "There is no file {} of semantic features."),
    ],
)
def test_a_file_that_is_not_there_is_told_before_anything_loads(
    option: str, words: str, run, fake_runs, tmp_path: Path
) -> None:
    (tmp_path / "orders.csv").touch()
    typed = tmp_path / "order.csv"
    ended = run("train", option, str(typed), "--json")
    error = json.loads(ended.stdout)["error"]
    assert (ended.code, fake_runs.config, error["code"]) == (2, None, "data")
    assert (error["message"], error["remedy"]) == (words.format(typed), f"Did you mean {tmp_path / 'orders.csv'}?")
    assert run("train", option, str(tmp_path / "orders.csv")).code == 0


@pytest.mark.parametrize("columns", ["60", "80"])
@pytest.mark.parametrize("command", ["train", "sweep", "compare", "runs remove", "data features"])
def test_help_is_whole_on_narrow_terminals(run, monkeypatch, columns, command) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    page = run(*command.split(), "--help").stdout
    assert "\u2026" not in page
    assert max(map(len, page.splitlines())) <= int(columns)
    if command in ("train", "sweep"):
        assert all(f"{name} " in page for name in ("--min-user-interactions", "--server-learning-rate"))


def test_arguments_show_their_name_alone(run) -> None:
    assert "fedmm runs remove [OPTIONS] FOLDER... " in run("runs", "remove", "--help").stdout
    assert "fedmm compare [OPTIONS] [RUN...] " in run("compare", "--help").stdout


def test_flags_show_no_type_beside_them(run) -> None:
    """A type invites a value, which flags refuse."""
    for command in (["train"], ["recommend"], ["runs", "list"]):
        text = run(*command, "--help").stdout
        lines = [line for line in text.splitlines() if "--help" not in line and " --" in line]
        assert lines
        assert not [line for line in lines if "<bool>" in line or "<list" in line]


def test_json_is_exactly_the_result(run, fake_runs, result) -> None:
    ended = run("train", "--json")
    assert json.loads(ended.stdout) == result
    assert "round 3/3" in ended.stderr
    result["model"]["gating_weight"] = float("inf")  # no number in JSON
    assert json.loads(run("train", "--json", "--quiet").stdout)["model"]["gating_weight"] is None


def test_quiet_leaves_only_warnings(run, fake_runs) -> None:
    assert run("train", "--quiet").stderr == "warning: a warning in [brackets]\n"


@pytest.mark.parametrize(
    ("error", "exit_code", "code", "words"),
    [
        (StorageError("x cannot be written.", "Free space."), 1, "storage", "x cannot be written"),
        (Interrupted(signal.SIGINT, remedy="Go on with: fedmm train --resume"), 130, "interrupted", "SIGINT"),
        (Interrupted(signal.SIGTERM), 143, "interrupted", "SIGTERM"),
        (KeyboardInterrupt(), 130, "interrupted", "Ctrl-C"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), 1, "storage", "/runs/a cannot be used: No space"),
        (OSError(errno.EACCES, "Permission denied", "/runs/a"), 1, "storage", "Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/runs/a"), 1, "storage", "Read-only"),
        (MemoryError(), 1, "memory", "not enough memory"),
        (RuntimeError("[enforce fail] CPUAllocator: can't allocate memory: 9 bytes"), 1, "memory", "memory"),
        (ZeroDivisionError("division\nby zero"), 1, "bug", "ZeroDivisionError: division by zero"),
    ],
)
def test_every_failure_has_its_exit_code_and_one_line(
    error: BaseException, exit_code: int, code: str, words: str, run, fake_runs
) -> None:
    fake_runs.error = error
    ended = run("train", "--quiet")
    assert ended.code == exit_code
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()[1:]  # after the warning
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert len(lines) <= 2
    failure = json.loads(run("train", "--quiet", "--json").stdout)
    assert failure["error"]["code"] == code
    assert "Traceback" not in ended.stderr
    if code == "bug":
        assert "--debug" in lines[1]
        assert "Traceback" in run("train", "--debug").stderr


def test_sigterm_outside_a_run_is_143(run, fake_runs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(fake_runs.__class__, "run_training", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    sys.modules["fedmm.runs.train"].run_training = fake_runs.run_training
    ended = run("train")
    assert ended.code == 143
    assert "SIGTERM" in ended.stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_leaves_is_no_error() -> None:
    program = "import sys; from fedmm_cli.app import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program, "config", "show"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_show_prints_settings_that_read_back(run, tmp_path: Path) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(run("config", "show", "--rounds", "7", "--set", "federation.clip_norm=none").stdout)
    config = load_config([path])
    assert config.federation.rounds == 7
    assert config.federation.clip_norm is None
    assert dump_toml(config) == path.read_text()
    changed = run("config", "show", "--config", str(path), "--changed").stdout
    assert tomllib.loads(changed) == {"federation": {"rounds": 7, "clip_norm": "none"}}
    as_json = json.loads(run("config", "show", "--config", str(path), "--changed", "--json").stdout)
    changed_settings = {"federation.rounds": 7, "federation.clip_norm": None}
    assert as_json == {"settings": changed_settings, "digest": config.digest, "idle": []}


def test_init_writes_the_defaults_and_validate_accepts_them(run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "fedmm.toml"
    assert run("config", "init", str(path)).code == 0
    assert load_config([path]) == ExperimentConfig()
    ended = run("config", "validate", str(path))
    assert (ended.code, ended.stdout) == (0, f"valid; digest {ExperimentConfig().digest}\n")
    assert json.loads(run("config", "validate", str(path), "--json").stdout)["valid"] is True


def test_resume_takes_the_stopped_runs_settings(
    run, fake_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "stopped"
    folder.mkdir(parents=True)
    stopped = load_config(assignments=["federation.rounds=5", "model.hidden_dim=8", "federation.clip_norm=none"])
    (folder / "config.toml").write_text(dump_toml(stopped))
    for arguments in ([], ["--output", str(folder)], ["--output", "runs/stopped", "--rounds", "6"]):
        assert run("train", "--resume", *arguments).code == 0
        config = fake_runs.config
        assert fake_runs.resume is True
        assert Path(config.runtime.output).resolve() == folder
        assert config.model == stopped.model
        assert config.federation.clip_norm is None
        assert config.federation.rounds == (6 if "--rounds" in arguments else 5)


def test_data_list_tells_what_is_kept_and_clear_removes_it(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDMM_PREPARED_GB", "1")
    own = tmp_path / "own.csv"
    own.write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u in range(4) for i in range(5)))
    assert "prepared" not in run("data", "list").stdout
    first, second = (run("data", "describe", "--data", str(own), "--json") for _ in range(2))
    assert first == second
    assert "1 file read before" in run("data", "list").stdout
    (entry,) = json.loads(run("data", "list", "--json").stdout)["prepared"]["entries"]
    assert entry["source"] == str(own)
    cleared = json.loads(run("data", "clear", "--json").stdout)
    assert (cleared["entries"], cleared["bytes"]) == (1, entry["num_bytes"])
    assert "0 files" in run("data", "clear").stdout
    assert json.loads(run("data", "list", "--json").stdout)["prepared"]["entries"] == []


def test_list_and_describe_the_bundled_data(run) -> None:
    listed = json.loads(run("data", "list", "--json").stdout)["datasets"]
    assert [entry["name"] for entry in listed][:4] == ["movielens-small", "movielens-small-5core", "ml-100k", "ml-1m"]
    assert "597 users, 1,849 items, 56,166 interactions" in run("data", "list").stdout
    facts = json.loads(run("data", "describe", "--json").stdout)
    assert (facts["num_users"], facts["num_items"], facts["num_interactions"]) == (597, 1849, 56166)
    assert facts["features"].keys() == {"visual", "semantic"}
    assert facts["split"] == {"name": "leave_one_out", "validation": 597, "test": 597}
    text = run("data", "describe", "--visual-features", "none").stdout
    assert "1,849" in text
    assert "semantic" in text
    assert "visual  " not in text
    described = json.loads(run("data", "describe", "--min-rating", "4.5", "--json").stdout)
    assert described["num_interactions"] < 56166
