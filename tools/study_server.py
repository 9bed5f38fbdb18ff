"""The study's server: one page, videos without names, answers in SQLite.

A rater is a cookie. The order of clips and of methods is drawn from the rater's id, so
a reload or a restart of the server shows what was shown before.
"""

import contextlib
import pathlib
import random
import re
import secrets
import sqlite3
import time

PAGE = pathlib.Path(__file__).with_name("study_page.html")
COOKIE = "rater"
NO_COOKIE = "this page needs a cookie to know you by; allow it and load the page again"
YEAR = 365 * 24 * 3600
POLICY = "default-src 'none'; media-src 'self'; connect-src 'self'; "
POLICY += "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
SCHEMA = """
create table if not exists answers (
  rater text, clip text, question text, method text, rank integer, at real,
  primary key (rater, clip, question, method)
)
"""


@contextlib.contextmanager
def _database(path):
    """A connection whose changes are kept if nothing fails; WAL survives a crash."""
    connection = sqlite3.connect(path, timeout=10)
    try:
        with connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute(SCHEMA)
            yield connection
    finally:
        connection.close()


def keep(path, rater, clip, answers):
    """Keep a rater's answers {question: {method: rank}} on a clip, whole or not at all.

    Answers given before are replaced.
    """
    rows = [
        (rater, clip, question, method, rank, time.time())
        for question, ranks in answers.items()
        for method, rank in ranks.items()
    ]
    with _database(path) as database:
        database.executemany(
            "insert or replace into answers values (?, ?, ?, ?, ?, ?)", rows
        )


def read(path, question):
    """[(rater, {method: rank})], one for each ranking of a question."""
    with _database(path) as database:
        rows = database.execute(
            "select rater, clip, method, rank from answers where question = ? "
            "order by rater, clip, method",
            (question,),
        ).fetchall()
    found = {}
    for rater, clip, method, rank in rows:
        found.setdefault((rater, clip), {})[method] = rank
    return [(rater, ranks) for (rater, _), ranks in found.items()]


def answered(path, rater):
    """Names of the clips that a rater has answered."""
    with _database(path) as database:
        rows = database.execute(
            "select distinct clip from answers where rater = ?", (rater,)
        )
        return {clip for (clip,) in rows}


def plan(study, rater):
    """What a rater sees: [{"clip", "truth": video, "shown": [video], ...}].

    Args:
      study: dict of study.json, `perceptual_study.make`.

    Returns:
      for each clip in the rater's order the videos, methods hidden; "methods", the
      names behind them, stays on the server.
    """
    rng = random.Random(f"{study['seed']} {rater}")
    clips = sorted(study["clips"])
    rng.shuffle(clips)
    pages = []
    for clip in clips:
        methods = list(study["methods"])
        rng.shuffle(methods)
        videos = study["clips"][clip]
        shown = [videos[method] for method in methods]
        pages.append(
            {"clip": clip, "truth": videos["truth"], "shown": shown, "methods": methods}
        )
    return pages


def questions_of(study, rater):
    """The questions in the rater's order, or all would be asked of lips first."""
    questions = list(study["questions"])
    random.Random(f"{study['seed']} {rater} questions").shuffle(questions)
    return questions


def check(study, page, given):
    """{question: {method: rank}} of what a browser sent: ranks in the shown order.

    Raises:
      ValueError: a question is missing, or ranks are not each place once.
    """
    places = sorted(map(str, range(1, len(page["shown"]) + 1)))
    if not isinstance(given, dict) or set(given) != set(study["questions"]):
        raise ValueError(f"answers to {study['questions']} are wanted, {given!r} came")
    for question, ranks in given.items():
        if not isinstance(ranks, list) or sorted(map(str, ranks)) != places:
            raise ValueError(f"{question}: ranks {ranks!r}; expected each of {places}")
    return {
        question: {m: int(r) for m, r in zip(page["methods"], ranks, strict=True)}
        for question, ranks in given.items()
    }


def application(folder, study):
    """The Starlette application of a study's folder."""
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, HTMLResponse, JSONResponse
    from starlette.routing import Route

    database = pathlib.Path(folder) / "answers.sqlite"
    videos = {v for clip in study["clips"].values() for v in clip.values()}

    def rater_of(request):
        """The rater's id, or "" of a browser that sends none."""
        rater = request.cookies.get(COOKIE, "")
        return rater if re.fullmatch(r"[0-9a-f]{32}", rater) else ""

    def page(request):
        response = HTMLResponse(PAGE.read_text())
        response.headers["content-security-policy"] = POLICY
        # Lax, not strict: who comes back by the link in a letter is still the rater.
        rater = rater_of(request) or secrets.token_hex(16)
        response.set_cookie(COOKIE, rater, YEAR, httponly=True, samesite="lax")
        return response

    def state(request):
        if not (rater := rater_of(request)):
            return JSONResponse({"error": NO_COOKIE}, status_code=400)
        done = answered(database, rater)
        pages = plan(study, rater)
        left = [p for p in pages if p["clip"] not in done]
        shown = {k: left[0][k] for k in ("clip", "truth", "shown")} if left else None
        return JSONResponse(
            {
                "questions": questions_of(study, rater),
                "total": len(pages),
                "done": len(pages) - len(left),
                "page": shown,
            }
        )

    async def answer(request):
        # Without a name nobody knows in which order the videos were shown.
        if not (rater := rater_of(request)):
            return JSONResponse({"error": NO_COOKIE}, status_code=400)
        try:
            sent = await request.json()
            (page,) = [p for p in plan(study, rater) if p["clip"] == sent["clip"]]
            keep(database, rater, page["clip"], check(study, page, sent["answers"]))
        except (ValueError, KeyError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse({"kept": page["clip"]})

    def video(request):
        name = request.path_params["name"]
        if name not in videos:
            return JSONResponse({"error": f"no video {name!r}"}, status_code=404)
        return FileResponse(pathlib.Path(folder) / name, media_type="video/mp4")

    return Starlette(
        routes=[
            Route("/", page),
            Route("/state", state),
            Route("/answer", answer, methods=["POST"]),
            Route("/video/{name}", video),
        ]
    )
