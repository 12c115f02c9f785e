"""Sessions a person runs: ``nox`` for the tests, ``nox -s slow lint types build`` for the rest."""

from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"
CONSTRAINTS = ("-c", "constraints.txt")


@nox.session
def tests(session: nox.Session) -> None:
    """The suite for every change: under five minutes on two cores."""
    session.install(*CONSTRAINTS, ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Long and statistical laws."""
    session.install(*CONSTRAINTS, ".[test,encoders]")
    session.run("pytest", "-n", "0", "-m", "slow", *session.posargs)


@nox.session
def postgresql(session: nox.Session) -> None:
    """Two sweeps as if on two machines, over a PostgreSQL server that the test starts and stops (its programs must be
    installed)."""
    session.install(*CONSTRAINTS, ".[test,postgresql]")
    session.run("pytest", "-n", "0", "-m", "slow", "tests/tuning/test_postgresql.py", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Reports in headless Chromium, at the width of a desk and of a phone (Chromium must be installed)."""
    session.install(*CONSTRAINTS, ".[test]")
    session.run("pytest", "-n", "0", "-m", "slow", "tests/browser", *session.posargs)


@nox.session
def privacy(session: nox.Session) -> None:
    """The accountant against dp-accounting in 20 settings. Its own environment: dp-accounting asks for an older attrs
    than constraints.txt has."""
    session.install("dp-accounting==0.6.0")
    session.run("python", "tests/oracles/dp_accounting_oracle.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Style."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    session.install(*CONSTRAINTS, ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The site in site/: generated pages are up to date, every link leads somewhere."""
    session.install(*CONSTRAINTS, ".[docs]")
    session.run("python", "-m", "tools.docs", "--check")
    session.run("mkdocs", "build", "--strict")


@nox.session
def documents(session: nox.Session) -> None:
    """Everything that the README, the tutorials and the notebook tell a reader to type, with short trainings."""
    session.install(*CONSTRAINTS, ".[test]")
    session.run("pytest", "-n", "0", "-m", "slow or not slow", "tests/docs", *session.posargs)


@nox.session
def encoders(session: nox.Session) -> None:
    """The adapters over timm, open_clip and sentence-transformers, with tiny random models in local folders."""
    session.install(*CONSTRAINTS, ".[test,encoders,images]")
    session.run("pytest", "-n", "0", "tests/oracles/encoder_libraries.py", *session.posargs)


@nox.session
def cluster(session: nox.Session) -> None:
    """The engine cluster on a Ray of this machine, by 1, 2 and 4 workers, one of which is killed: the same bits."""
    session.install(*CONSTRAINTS, ".[test,cluster]")
    session.run("pytest", "-n", "0", "tests/oracles/ray_engine.py", *session.posargs)


@nox.session
def cuda(session: nox.Session) -> None:
    """Training on a GPU (one must be there) against the reference engine on the processor, and what a round takes."""
    session.install(*CONSTRAINTS, ".[test]")
    session.run("pytest", "-n", "0", "-m", "cuda", *session.posargs)
    session.run("python", "tests/benchmarks/gpu.py")


@nox.session
def flower(session: nox.Session) -> None:
    """A SuperLink and three SuperNodes of Flower on this machine, with TLS and keys, one of which is killed: what the
    sequential engine learns. Its own environment: Flower asks for older packages than constraints.txt has. A quarter of
    an hour; `-- --benchmark` says what a round takes instead."""
    session.install("-c", "constraints-flower.txt", ".[flower]", "pytest", "pytest-xdist", "hypothesis")
    if "--benchmark" in session.posargs:
        session.run("python", "tests/benchmarks/flower.py")
    else:
        session.run("pytest", "-n", "0", "tests/oracles/flower_federation.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Builds the wheel, installs it elsewhere and trains with it outside the checkout."""
    session.install(*CONSTRAINTS, "build")
    out = session.create_tmp()
    session.run("python", "-m", "build", "--wheel", "--outdir", out, ".")
    (wheel,) = Path(out).glob("*.whl")
    session.install(*CONSTRAINTS, str(wheel))
    session.chdir(out)
    session.run("fedmm", "train", "--rounds", "2", "--quiet")
    session.run("fedmm", "sweep", "--list")


@nox.session
def mutation(session: nox.Session) -> None:
    """One small change of the code at a time: who notices, verify or the fast tests? Hours for all; `-- --sample 300
    --seed 1` for a sample; stopped and called again it goes on."""
    session.install(*CONSTRAINTS, ".[test]", "coverage")
    session.run("python", "-m", "tools.mutation", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Ratios measured in one run; figures are printed, nothing is asserted but equal outputs."""
    session.install(*CONSTRAINTS, ".")
    session.run("fedmm", "data", "fetch", "ml-100k")
    session.run("python", "tests/benchmarks/everything.py", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """fedmm against Flower's simulation, pfl-research and a plain PyTorch loop, each in an environment of its own:
    outputs must be equal, times are printed. Needs `fedmm data fetch ml-100k`."""
    session.install(*CONSTRAINTS, ".")
    session.run("python", "tests/benchmarks/peers/compare.py", *session.posargs)
