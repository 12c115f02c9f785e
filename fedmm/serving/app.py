"""The server's application. Only this file and ``gate`` know FastAPI and Prometheus; ``server`` loads them late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from fedmm import __version__
from fedmm.errors import FedmmError
from fedmm.recommendation.choosing import Choice
from fedmm.recommendation.explanations import Explanation
from fedmm.recommendation.pictures import Pictures
from fedmm.recommendation.recommend import Recommendation
from fedmm.serving.batching import Batcher, TooBusyError
from fedmm.serving.current import Current, Say, Served
from fedmm.serving.gate import Gate, Meters, fault
from fedmm.serving.page import PAGE, SCRIPT
from fedmm.serving.requests import (
    MOST_ITEMS,
    ExplainBody,
    FaultAnswer,
    Health,
    Item,
    ListAnswer,
    RecommendBody,
    Whom,
)

Value = TypeVar("Value")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:"
)
FAULTS: dict[int | str, dict[str, Any]] = {
    code: {"model": FaultAnswer} for code in (400, 401, 404, 413, 422, 500, 503, 504)
}


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how many may wait."""

    seconds: float = 5.0
    body_bytes: int = 1_000_000
    waiting: int = 256
    reload_seconds: float = 5.0  # between looks for a newer model; 0: never


def make_app(
    current: Current,
    say: Say,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    pictures: Pictures | None = None,
) -> FastAPI:
    """The application over the model in ``current``. ``say`` hears of newer models; with a ``token`` every address but
    the page's and ``/health`` wants it. ``pictures`` are shown beside items."""
    own = limits or Limits()
    desk = Desk(current, own, Meters(), pictures)
    app = FastAPI(
        title="fedmm", version=__version__, summary="Recommendations of a trained model.",
        lifespan=partial(_lifespan, desk, say), responses=FAULTS,
    )  # fmt: skip
    app.add_middleware(Gate, meters=desk.meters, token=token, body_bytes=own.body_bytes)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(FedmmError, _unknown)
    app.add_exception_handler(TooBusyError, _busy)
    app.add_exception_handler(TimeoutError, _late)
    _add_answers(app, desk)
    _add_pages(app, desk)
    return app


class Desk:
    """Who answers: the batches of lists, and a thread of its own for what takes longer."""

    def __init__(self, current: Current, limits: Limits, meters: Meters, pictures: Pictures | None) -> None:
        self.current, self.limits, self.meters, self.pictures = current, limits, meters, pictures
        self.batcher = Batcher(limits.waiting, meters.batches.observe)
        self.slow = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._waiting = 0

    async def slowly(self, work: Callable[[], Value]) -> Value:
        """``work()`` in the thread for what takes longer. Raises TooBusyError, TimeoutError."""
        if self._waiting >= max(1, self.limits.waiting // 8):
            raise TooBusyError
        self._waiting += 1
        try:
            running = asyncio.get_running_loop().run_in_executor(self.slow, work)
            return await asyncio.wait_for(running, self.limits.seconds)
        finally:
            self._waiting -= 1

    async def renew(self, say: Say) -> None:
        """Looks for a newer model, again and again."""
        while True:
            await asyncio.sleep(self.limits.reload_seconds)
            if await asyncio.get_running_loop().run_in_executor(self.slow, self.current.renew, say):
                self.meters.reloads.inc()


@contextlib.asynccontextmanager
async def _lifespan(desk: Desk, say: Say, app: FastAPI) -> AsyncIterator[None]:
    del app
    tasks = [asyncio.create_task(desk.batcher.run())]
    if desk.limits.reload_seconds:
        tasks.append(asyncio.create_task(desk.renew(say)))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    desk.batcher.close()
    desk.slow.shutdown(wait=False, cancel_futures=True)


def _add_answers(app: FastAPI, desk: Desk) -> None:
    @app.post("/recommend")
    async def recommend(body: RecommendBody) -> ListAnswer:
        """The best items for a user of the data, or for somebody new by a history."""
        served = desk.current.served
        asked = served.chooser.asked(*_whom(body), _nobody_hears)
        choice = Choice(body.k, body.exclude, body.only, body.keep_seen, body.min_score)
        found = await desk.batcher.lists(served, asked, choice, desk.limits.seconds)
        given = (*(body.history or ()), *body.exclude, *(body.only or ()))
        return _answer(served, found, body.user_id, given)

    @app.get("/similar")
    async def similar(
        item_id: Annotated[str, Query(min_length=1, max_length=200)],
        by: Annotated[str, Query(pattern="^(model|text|image)$")] = "model",
        k: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 10,
    ) -> ListAnswer:
        """The items most like one, by the model, by texts or by images; scores are cosines."""
        served = desk.current.served
        found = await desk.slowly(partial(served.model.similar, item_id, by=by, k=k))
        return _answer(served, found, None, ())

    @app.post("/explain")
    async def explain(body: ExplainBody) -> list[dict[str, Any]]:
        """Why items are recommended: shares of the score, the router's weights, the entries of the history that
        mattered."""
        served = desk.current.served
        asked = served.chooser.asked(*_whom(body), _nobody_hears)
        work = partial(served.chooser.explain, asked, body.items, body.k, _nobody_hears)
        found: list[Explanation] = await desk.slowly(work)
        return [one.to_json() for one in found]

    @app.get("/health")
    async def health() -> Health:
        """That the server answers, and by which model."""
        served = desk.current.served
        number = len(served.model.item_ids)
        return Health(
            status="ok", run=served.name, round=served.model.round, num_items=number, since=served.since,
            num_pictures=0 if desk.pictures is None else len(desk.pictures.files),
        )  # fmt: skip


def _add_pages(app: FastAPI, desk: Desk) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and times for Prometheus."""
        desk.meters.round.set(desk.current.served.model.round)
        return Response(generate_latest(desk.meters.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/picture", response_class=Response)
    async def picture(item_id: Annotated[str, Query(min_length=1, max_length=200)]) -> Response:
        """The picture of an item, where the server was given a folder that has one."""
        found = None if desk.pictures is None else await desk.slowly(partial(desk.pictures.read, item_id))
        if found is None:
            return fault(404, "data", "There is no picture of this item.", "See num_pictures of /health.")
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=3600"}
        return Response(found.content, media_type=found.media_type, headers=headers)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(PAGE, media_type="text/html", headers=headers)

    @app.get("/page.js", include_in_schema=False)
    async def script() -> Response:
        return Response(SCRIPT, media_type="text/javascript")


def _whom(body: Whom) -> tuple[Any, None, Any, None]:
    return body.history, None, body.user_id, None


def _answer(served: Served, found: list[Recommendation], user: str | None, given: tuple[str, ...]) -> ListAnswer:
    items = [
        Item.model_construct(item_id=one.item_id, rank=rank, score=one.score, title=one.title)
        for rank, one in enumerate(found, start=1)
    ]
    index = served.chooser.names.item_index
    unknown = list(dict.fromkeys(one for one in given if one not in index))
    return ListAnswer.model_construct(user_id=user, items=items, unknown=unknown, round=served.model.round)


def _nobody_hears(text: str) -> None:
    del text  # unknown ids are in the answer


async def _malformed(request: Request, error: Exception) -> Response:
    del request
    found = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [f"{'.'.join(str(place)[:40] for place in one['loc'][:6])}: {one['msg'][:200]}" for one in found[:3]]
    return fault(422, "request", "; ".join(parts) or "The request cannot be read.", "See /docs.")


async def _refused(request: Request, error: Exception) -> Response:
    del request
    status = error.status_code if isinstance(error, HTTPException) else 400
    words = {404: "There is nothing at this address.", 405: "This address wants another method."}
    return fault(status, "request", words.get(status, "The request cannot be read."), "See /docs.")


async def _unknown(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, FedmmError) or error.exit_code != 2:
        return fault(500, "error", "The model gives no answer.")
    return fault(404 if error.code == "data" else 422, error.code, error.message, error.remedy)


async def _busy(request: Request, error: Exception) -> Response:
    del request, error
    return fault(503, "busy", "Too many requests wait.", "Ask again in a second.", {"Retry-After": "1"})


async def _late(request: Request, error: Exception) -> Response:
    del request, error
    return fault(504, "late", "The answer took too long.", "Ask for less, or allow more time (--timeout).")
