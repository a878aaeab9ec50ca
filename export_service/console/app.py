"""The console's web server: routes, security headers, events, sign-in. It writes nothing but what an action does."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web
from markupsafe import Markup

from export_service.console.actions import JOB_ACTIONS, LETTER_ACTIONS, Action
from export_service.console.costly import Costly
from export_service.console.histories import Histories
from export_service.console.now import FLOW
from export_service.console.sessions import COOKIE, Session, Sessions, known_host, ours, same_origin
from export_service.console.shown_records import shown
from export_service.console.views import LiveViews, wanted_of
from export_service.failures import ExportError, Unavailable
from export_service.letters import Filter, Kept, as_object
from export_service.redaction import without_secrets
from export_service.settings import Settings

_STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_VIEWERS = 200
_QUIET_SECONDS = 15
"""A stream without an event says so after this time, so that a connection that has gone is noticed."""
_LETTERS = 200
_TOPICS_OF_A_JOB = ("requests", "tasks", "results", "snapshots", "completions", "callbacks", "cancellations", "dead-letters")
_WRONG_SECONDS = 1.0
_LONGEST_WHY = 500


class Console:
    """Args:
    feed: a `streams.console_feed.ConsoleFeed`, which `serve` runs.
    """

    def __init__(self, settings: Settings, feed: Any, log: Any) -> None:
        self._settings, self._feed, self._log = settings, feed, log
        self._views = LiveViews(feed.now, feed.jobs, settings.console.jobs)
        token = settings.console.token
        self._sessions = Sessions(token.get_secret_value() if token else None)
        self._histories = Histories(settings, feed.jobs, self._views.render)
        self._letters: Costly[list[Kept]] = Costly(self._load_letters, seconds=5)
        self._browsing = asyncio.Semaphore(2)
        self._rendered: dict[str, tuple[tuple[int, int], str | None]] = {}
        self._viewers = 0
        self._guessing = asyncio.Lock()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024)
        for path, handler in {
            "/": self._page,
            "/jobs": self._page,
            "/topics": self._page,
            "/workers": self._page,
            "/jobs/{job}": self._job,
            "/jobs/{job}/grid": self._part,
            "/jobs/{job}/history": self._part,
            "/topics/{topic}": self._topic,
            "/dead-letters": self._dead_letters,
            "/events": self._events,
            "/sign-in": self._sign_in,
            "/healthz": self._health,
            "/static/{name}": self._static,
        }.items():
            app.router.add_get(path, handler)
        app.router.add_post("/sign-in", self._sign_in)
        app.router.add_post("/sign-out", self._sign_out)
        app.router.add_route("*", "/jobs/{subject}/do/{action}", self._do)
        app.router.add_route("*", "/dead-letters/{subject}/do/{action}", self._do)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not known_host(request.host, (*self._settings.console.names, self._settings.console.host)):
            return web.Response(status=421, text="not a name of this console; see EXPORT_CONSOLE_NAMES\n")
        try:
            answer: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                error.headers.update(_HEADERS)
                raise
            answer = self._message(request, error.status, error.reason, error.text or error.reason)
        except ExportError as error:
            status = 503 if isinstance(error, Unavailable) else 409 if request.method == "POST" else 404
            answer = self._message(request, status, "Not possible", str(error))
        except ConnectionResetError:
            raise
        except Exception:  # a defect, which is no traceback for who looks
            self._log.exception("A page of the console failed")
            answer = self._message(request, 500, "Not possible", "This page failed; the console's log says why.")
        if not answer.prepared:
            answer.headers.update({name: value for name, value in _HEADERS.items() if name not in answer.headers})
        return answer

    # Pages

    def _render(self, request: web.Request, template: str, /, *, status: int = 200, **values: Any) -> web.Response:
        session = self._sessions.of(request.cookies)
        common = {
            "here": "/" + request.path.split("/")[1],
            "session": session,
            "said": session.said if session else None,
            "can_sign_in": self._sessions.possible,
            "target": None,
            "form": None,
            "after": None,
            "flow": FLOW,
        }
        answer = web.Response(text=self._views.render(template, **common | values), content_type="text/html", status=status)
        answer.enable_compression()
        if session:
            session.said = None
        return answer

    def _message(self, request: web.Request, status: int, title: str, message: str) -> web.Response:
        return self._render(request, "message.html", status=status, title=title, message=message, kind="bad", back="/")

    async def _page(self, request: web.Request) -> web.Response:
        titles = {"/": "Overview", "/jobs": "Jobs", "/topics": "Topics", "/workers": "Workers"}
        wanted = wanted_of(request.query)
        whole = request.path == "/jobs" and len(wanted.text) == 36 and self._feed.jobs.get(wanted.text) is None
        if whole:
            raise web.HTTPFound(f"/jobs/{quote(wanted.text)}")
        form = "jobs_form.html" if request.path == "/jobs" else None
        live = Markup(self._live(request.path_qs) or "")
        return self._render(
            request, "page.html", title=titles[request.path], live=live, target=request.path_qs, form=form, wanted=wanted
        )

    async def _job(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job"]
        await self._look_up(job_id)
        target = f"/jobs/{quote(job_id, safe='')}"
        live = self._live(target)
        if live is None:
            raise web.HTTPNotFound
        grid = history = None
        if "whole" in request.query:  # for a browser without scripts
            grid, history = [Markup((await self._histories.part(name, job_id))[0]) for name in ("grid", "history")]
        return self._render(
            request,
            "page.html",
            title=f"Job {job_id[:8]}",
            live=Markup(live),
            target=target,
            after="job_after.html",
            job_id=job_id,
            actions=JOB_ACTIONS,
            grid=grid,
            history=history,
        )

    async def _look_up(self, job_id: str) -> None:
        """One that is too old to be kept in memory may be in the table."""
        from export_service.cli.explain import snapshot_of

        if self._feed.jobs.get(job_id) is not None:
            return
        try:
            if (snapshot := await snapshot_of(self._settings, job_id)) is not None:
                self._feed.jobs.see(snapshot, moved=False)
        except ExportError as error:
            self._log.warning("Cannot look up a job", jobId=job_id, reason=str(error))

    async def _part(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job"]
        await self._look_up(job_id)
        html, again = await self._histories.part(request.path.rsplit("/", 1)[1], job_id)
        answer = web.Response(text=html, content_type="text/html", headers={"X-Ask-Again": "1"} if again else {})
        answer.enable_compression()
        return answer

    async def _topic(self, request: web.Request) -> web.Response:
        from streams.browsing import browse

        name = request.match_info["topic"]
        target = f"/topics/{name}"
        live = self._live(target)
        if live is None:
            raise web.HTTPNotFound(text=f"Topic {name} is not there.")
        query = {each: request.query.get(each, "").strip() for each in ("job", "partition", "offset")}
        found, problem = None, None
        try:
            partition, offset = (int(query[each]) if query[each] else None for each in ("partition", "offset"))
            job = self._feed.jobs.get(query["job"])
            since = job.requested_at if job and job.attempt == 1 else None
            async with self._browsing:
                found = await browse(
                    self._settings, name, job=query["job"] or None, since=since, partition=partition, offset=offset
                )
        except ValueError:
            problem = "Partition and offset are numbers."
        except ExportError as error:
            problem = str(error)
        return self._render(
            request,
            "page.html",
            title=f"Topic {name}",
            live=Markup(live),
            target=target,
            after="topic_after.html",
            name=name,
            query=query,
            problem=problem,
            found=found,
            records=[shown(raw) for raw in found.records] if found else [],
            topics=_TOPICS_OF_A_JOB,
        )

    async def _load_letters(self, _: str) -> list[Kept]:
        from streams.letters import load

        return await load(self._settings)

    async def _dead_letters(self, request: web.Request) -> web.Response:
        query = {each: request.query.get(each, "") for each in ("topic", "reason", "state")}
        state = query["state"] or "open"
        wanted = Filter(topic=query["topic"] or None, reason=query["reason"] or None, state=None if state == "all" else state)  # type: ignore[arg-type]
        found = [kept for kept in (await self._letters.get("all")).value if wanted.takes(kept)]
        letters = [
            {"jobId": None, "body": None, "bodyBase64": None, "actions": None} | as_object(kept, body=True)
            for kept in found[-_LETTERS:]
        ]
        return self._render(
            request,
            "dead_letters.html",
            letters=letters[::-1],
            total=len(found),
            query=query,
        )

    # Live

    def _live(self, target: str) -> str | None:
        """Rendered once for all who look at it."""
        known, html = self._rendered.get(target, ((-1, -1), None))
        version = (self._feed.version, self._feed.jobs.changes)
        if known != version:
            html = self._views.live(target)
            if len(self._rendered) > _VIEWERS:
                self._rendered.clear()
            self._rendered[target] = (version, html)
        return html

    async def _events(self, request: web.Request) -> web.StreamResponse:
        target = request.query.get("of", "/")
        if self._live(target) is None:
            raise web.HTTPNotFound
        if self._viewers >= _VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{_VIEWERS} pages are live already.")
        stream = web.StreamResponse(
            headers=_HEADERS | {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        await stream.prepare(request)
        self._viewers += 1
        try:
            await stream.write(b"retry: 2000\n\n")
            sent, version = None, -1
            while True:
                if (html := self._live(target)) is not None and html != sent:
                    # One who is slow is sent the newest when he can take it, and nothing of before.
                    await stream.write("".join(f"data: {line}\n" for line in html.splitlines()).encode() + b"\n")
                    sent = html
                try:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        version = await self._feed.changed(version if version >= 0 else self._feed.version)
                except TimeoutError:
                    await stream.write(b": still here\n\n")
        except (ConnectionResetError, asyncio.CancelledError):
            return stream
        finally:
            self._viewers -= 1

    async def _health(self, _: web.Request) -> web.Response:
        problem = self._feed.now.problem
        return web.json_response({"ok": problem is None, "problem": problem}, status=503 if problem else 200)

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = _STATIC / request.match_info["name"]
        if path.parent != _STATIC or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Cache-Control": "no-cache"})

    # What changes something

    async def _sign_in(self, request: web.Request) -> web.Response:
        if not self._sessions.possible:
            raise web.HTTPNotFound(text="This console only shows: EXPORT_CONSOLE_TOKEN is not set.")
        if request.method == "GET":
            return self._render(request, "sign_in.html", wrong=False)
        if not same_origin(request.headers):
            raise web.HTTPForbidden(text="That form was not sent from this console.")
        given = (await request.post()).get("token", "")
        async with self._guessing:  # one at a time, whoever guesses
            session = self._sessions.begin(given if isinstance(given, str) else "")
            if session is None:
                await asyncio.sleep(_WRONG_SECONDS)
                return self._render(request, "sign_in.html", status=403, wrong=True)
        answer = web.Response(status=303, headers={"Location": "/"})
        lasts = int(session.until - time.time())
        # A proxy that ends https says so.
        secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        answer.set_cookie(COOKIE, session.id, max_age=lasts, httponly=True, samesite="Strict", secure=secure)
        return answer

    async def _sign_out(self, request: web.Request) -> web.Response:
        self._sessions.end(await self._signed_in(request))
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.del_cookie(COOKIE)
        return answer

    async def _signed_in(self, request: web.Request) -> Session:
        """Raises HTTPForbidden. Of a form, that it is ours too."""
        session = self._sessions.of(request.cookies)
        if session is None:
            raise web.HTTPForbidden(text="Sign in first." if self._sessions.possible else "This console only shows.")
        if request.method != "GET" and not ours(session, await request.post(), request.headers):
            raise web.HTTPForbidden(text="That form is not of this session; load its page again.")
        return session

    async def _do(self, request: web.Request) -> web.Response:
        if request.method not in ("GET", "POST"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"])
        session = await self._signed_in(request)
        subject, section = request.match_info["subject"], request.path.split("/")[1]
        known: Mapping[str, Action] = JOB_ACTIONS if section == "jobs" else LETTER_ACTIONS
        action = known.get(request.match_info["action"])
        if action is None:
            raise web.HTTPNotFound
        back = f"/jobs/{quote(subject, safe='')}" if section == "jobs" else "/dead-letters"
        if request.method == "GET":
            plan = await action.plan(self._settings, subject)
            return self._render(
                request,
                "plan.html",
                title=action.title,
                about=action.about,
                button=action.button,
                plan=plan.text,
                can=plan.can,
                back=back,
            )
        why = (await request.post()).get("why")
        reason = without_secrets(why[:_LONGEST_WHY]) if isinstance(why, str) and why.strip() else None
        session.said = await action.do(self._settings, subject, reason)
        self._letters.forget("all")
        raise web.HTTPSeeOther(back)


@asynccontextmanager
async def serving(settings: Settings, log: Any) -> AsyncIterator[tuple[str, "asyncio.Task[None]"]]:
    """The console at its address, until the context ends, and its reader, which ends only by a defect.

    Raises OSError: the address is taken.
    """
    from streams.console_feed import ConsoleFeed

    feed = ConsoleFeed(settings, log)
    runner = web.AppRunner(Console(settings, feed, log).app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.console.host, settings.console.port).start()
        host, port = runner.addresses[0][:2]
        running = asyncio.create_task(feed.run())
        try:
            yield f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/", running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    finally:
        await runner.cleanup()
