"""Pages and the parts of them that are live, as HTML: what is shown where. Each view is given the query that the page was called with."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from export_service import __version__, words
from export_service.console import pictures
from export_service.console.filters import FILTERS
from export_service.console.now import FLOW, Now
from export_service.console.seen_jobs import SeenJobs, Wanted
from export_service.redaction import without_secrets
from export_service.status_groups import GROUPS
from streams.group_members import Place

Query = Mapping[str, str]


def environment() -> Environment:
    found = Environment(
        loader=PackageLoader("export_service.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= FILTERS
    # Anything that people write may quote a URL: a cause, an export's name.
    found.filters["safely"] = lambda text: "–" if text is None else without_secrets(str(text))
    found.globals |= {"version": __version__, "levels": pictures.LEVELS, "groups": list(GROUPS), "flow": FLOW}
    return found


class LiveViews:
    """What `/events` sends, by path: made anew from what is in memory, and from nothing else."""

    def __init__(self, now: Now, jobs: SeenJobs, most_jobs: int) -> None:
        self._now, self._jobs, self._most = now, jobs, most_jobs
        self._templates = environment()
        self._views: dict[str, Callable[[Query], dict[str, Any]]] = {
            "/": self._overview,
            "/jobs": self._list,
            "/topics": self._topics,
            "/workers": self._workers,
        }

    def render(self, template: str, /, **values: Any) -> str:
        return self._templates.get_template(template).render(values)

    def live(self, target: str) -> str | None:
        """Of a path with its query, `/jobs?status=open`; None: nothing of it is live."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query))
        if (view := self._views.get(url.path)) is not None:
            return self.render(f"live/{url.path[1:] or 'overview'}.html", **self._common(), **view(query))
        section, _, name = url.path[1:].partition("/")
        if section == "jobs" and (name := unquote(name)) and "/" not in name:
            return self.render("live/job.html", **self._common(), job=self._jobs.get(name), job_id=name)
        if section == "topics" and name in {place.topic for place in self._now.bounds}:
            return self.render("live/topic.html", **self._common(), **self._topic(name))
        return None

    def _common(self) -> dict[str, Any]:
        return {"now": self._now, "jobs": self._jobs, "at": datetime.now(UTC), "most": self._most}

    def _overview(self, _: Query) -> dict[str, Any]:
        samples = list(self._now.samples)
        charts = [
            pictures.chart("Files a second", samples, [("files", pictures.rates(samples, lambda each: each.files))]),
            pictures.chart("Records that wait", samples, [(topic, [each.lag.get(topic, 0) for each in samples]) for topic in FLOW]),
            pictures.chart("Seconds that the oldest record waits", samples, [("age", [each.age for each in samples])]),
        ]
        open_jobs = sorted(self._jobs.open(), key=lambda job: job.updated_at, reverse=True)
        return {
            "flows": pictures.flows(self._now, _said_of_topic),
            "charts": [chart for chart in charts if chart],
            "open_jobs": open_jobs[:8],
            "open_number": len(open_jobs),
            "letters": self._now.topic("dead-letters").records,
            "statuses": self._jobs.by_status(),
        }

    def _list(self, query: Query) -> dict[str, Any]:
        wanted = wanted_of(query)
        number = query.get("page", "1")
        page = self._jobs.page(wanted, int(number) if number.isdecimal() and len(number) < 10 else 1)

        def link(number: int) -> str:
            given = {"q": wanted.text, "user": wanted.user, "status": wanted.status, "page": str(number) if number > 1 else ""}
            return "/jobs?" + urlencode({name: value for name, value in given.items() if value})

        return {"page": page, "wanted": wanted, "link": link}

    def _topics(self, _: Query) -> dict[str, Any]:
        names = dict.fromkeys(place.topic for place in self._now.bounds)
        order = [*FLOW, *sorted(names.keys() - set(FLOW))]
        return {"topics": [self._now.topic(name) for name in order if name in names], "waiting": pictures.waiting}

    def _topic(self, name: str) -> dict[str, Any]:
        owners = self._now.owners()
        rows = [
            (number, each, self._now.ages.get(Place(name, number)), owners.get(Place(name, number)))
            for number, each in self._now.of(name).items()
        ]
        return {"topic": self._now.topic(name), "rows": rows, "waiting": pictures.waiting}

    def _workers(self, _: Query) -> dict[str, Any]:
        demand = [(worker, at, said) for worker, (at, said) in sorted(self._now.demand.items())]
        silent = [
            (place, age) for place, age in sorted(self._now.ages.items(), key=lambda each: -each[1]) if place.topic == "tasks"
        ]
        return {"demand": demand, "silent": silent[:1], "seconds": datetime.now(UTC).timestamp()}


def _said_of_topic(now: Now, name: str) -> tuple[str, ...]:
    topic = now.topic(name)
    rate = f"{words.number(topic.rate)}/s" if topic.rate is not None else "–/s"
    age = f"oldest {words.span(topic.age)}" if topic.age is not None else "nothing waits" if topic.lag == 0 else ""
    return (f"{rate} · lag {words.number(topic.lag)}", age)


def wanted_of(query: Query) -> Wanted:
    status = query.get("status", "")
    return Wanted(query.get("q", "").strip(), query.get("user", "").strip(), status if status in GROUPS else "")
