"""Makes what must agree with the code: the Grafana dashboard, the pages of metrics, settings, topics, messages and commands, and
docs/asyncapi.yaml. `python -m deploy.generate` writes them; a test compares."""

import json
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import yaml

from deploy import asyncapi, pages
from export_service.metric_names import ALL, Kind

ROOT = Path(__file__).parents[1]
DASHBOARD, DOCS = ROOT / "deploy/grafana/export-service.json", ROOT / "docs"
RULES = ROOT / "deploy/prometheus/rules.yml"

_RATE = "$__rate_interval"
_LAG = "max by (role, topic, partition) "
_PANELS: Mapping[str, tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]] = {
    "Promises": (
        (
            "Callback success rate",
            "percentunit",
            (
                (
                    'sum(rate(export_callbacks_total{outcome="SENT"}[$__range])) / sum(rate(export_callbacks_total[$__range]))',
                    "accepted",
                ),
            ),
        ),
        (
            "Callback latency: end of job to answer",
            "s",
            (
                (f"histogram_quantile(0.5, sum by (le) (rate(export_callback_latency_seconds_bucket[{_RATE}])))", "50 %"),
                (f"histogram_quantile(0.95, sum by (le) (rate(export_callback_latency_seconds_bucket[{_RATE}])))", "95 %"),
            ),
        ),
        (
            "Callback errors by type",
            "ops",
            ((f"sum by (kind, error) (rate(export_callback_errors_total[{_RATE}])) > 0", "{{kind}} {{error}}"),),
        ),
        (
            "Share of jobs with a token",
            "percentunit",
            (
                (
                    'sum(increase(export_jobs_accepted_total{has_task_token="true"}[1d])) / sum(increase(export_jobs_accepted_total[1d]))',
                    "with token",
                ),
            ),
        ),
        ("Heartbeats", "ops", ((f"sum by (outcome) (rate(export_heartbeats_total[{_RATE}]))", "{{outcome}}"),)),
        (
            "Dead letters and rejected requests in an hour",
            "short",
            (
                ("sum by (source) (increase(export_dead_letters_total[1h]))", "{{source}}"),
                ("sum by (told) (increase(export_requests_rejected_total[1h]))", "rejected, told: {{told}}"),
            ),
        ),
    ),
    "Topics": (
        ("Records out", "ops", ((f"sum by (topic) (rate(export_topic_records_out_total[{_RATE}]))", "{{topic}}"),)),
        ("Records in", "ops", ((f"sum by (topic) (rate(export_topic_records_in_total[{_RATE}]))", "{{topic}}"),)),
        ("Bytes out", "Bps", ((f"sum by (topic) (rate(export_topic_bytes_out_total[{_RATE}]))", "{{topic}}"),)),
        ("Bytes in", "Bps", ((f"sum by (topic) (rate(export_topic_bytes_in_total[{_RATE}]))", "{{topic}}"),)),
        ("Lag, records", "short", ((f"sum by (role) ({_LAG}(export_lag_records))", "{{role}}"),)),
        ("Lag, age of the next record", "s", (("max by (role) (export_lag_age_seconds)", "{{role}}"),)),
        (
            "Queue",
            "short",
            (
                ("max by (state) (export_queue_messages)", "{{state}}"),
                ("sum(export_queue_work_messages)", "in work"),
            ),
        ),
        ("Queue, age of the oldest message", "s", (("max(export_queue_age_seconds)", "oldest"),)),
    ),
    "Jobs": (
        (
            "Time since the request, mean",
            "s",
            (
                (
                    f"sum by (stage) (rate(export_job_seconds_sum[{_RATE}])) / sum by (stage) (rate(export_job_seconds_count[{_RATE}]))",
                    "{{stage}}",
                ),
            ),
        ),
        (
            "Time until the end, 95 %",
            "s",
            ((f'histogram_quantile(0.95, sum by (le) (rate(export_job_seconds_bucket{{stage="ended"}}[{_RATE}])))', "95 %"),),
        ),
        (
            "Open jobs",
            "short",
            (
                ("sum by (status) (export_jobs_open)", "{{status}}"),
                ("sum(export_jobs_stuck)", "stuck"),
                ("sum(export_plans_open)", "plans"),
            ),
        ),
        ("Longest without a move", "s", (("max(export_job_still_seconds)", "job"),)),
        ("Jobs ended", "ops", ((f"sum by (status) (rate(export_jobs_ended_total[{_RATE}]))", "{{status}}"),)),
        (
            "Outcomes counted, tasks planned",
            "ops",
            (
                (f"sum(rate(export_tally_outcomes_total[{_RATE}]))", "outcomes"),
                (f"sum(rate(export_tally_events_total[{_RATE}]))", "events"),
                (f"sum(rate(export_tasks_planned_total[{_RATE}]))", "planned"),
            ),
        ),
    ),
    "Downloads": (
        ("Files by outcome", "ops", ((f"sum by (outcome) (rate(export_downloads_total[{_RATE}]))", "{{outcome}}"),)),
        (
            "Failures by class and hosts",
            "ops",
            ((f'sum by (error, hosts) (rate(export_downloads_total{{outcome="FAILED"}}[{_RATE}])) > 0', "{{error}} {{hosts}}"),),
        ),
        ("Bytes", "Bps", ((f"sum by (hosts) (rate(export_download_bytes_total[{_RATE}]))", "{{hosts}}"),)),
        (
            "Time of a file",
            "s",
            (
                (f"histogram_quantile(0.5, sum by (le) (rate(export_download_seconds_bucket[{_RATE}])))", "50 %"),
                (f"histogram_quantile(0.95, sum by (le) (rate(export_download_seconds_bucket[{_RATE}])))", "95 %"),
            ),
        ),
        ("Retries", "ops", ((f"sum by (hosts) (rate(export_download_retries_total[{_RATE}]))", "{{hosts}}"),)),
        (
            "Slots and what waits",
            "short",
            (
                ("sum by (state) (export_download_slots)", "slots {{state}}"),
                ("sum(export_download_waiting_tasks)", "tasks that wait"),
                ("sum(export_download_paused_hosts)", "paused hosts"),
            ),
        ),
    ),
    "Workers": (
        ("Ready", "short", (("sum(export_worker_ready)", "ready"), ("count(export_worker_info)", "workers"))),
        ("Assigned partitions", "short", (("sum by (role) (export_assigned_partitions)", "{{role}}"),)),
        (
            "Under way",
            "short",
            (
                ("sum by (role) (export_ack_window_records)", "{{role}}"),
                ("sum(export_producer_unconfirmed_records)", "unconfirmed"),
            ),
        ),
        (
            "What stands still",
            "s",
            (
                ("max by (role) (export_partition_still_seconds)", "partition of {{role}}"),
                ("max(export_producer_silent_seconds)", "producer"),
                ("max(export_lag_looked_seconds)", "offsets known for"),
                ("max(export_worker_loop_delay_seconds)", "loop"),
            ),
        ),
        ("Rebalances in 15 minutes", "short", (("sum by (role) (increase(export_rebalances_total[15m]))", "{{role}}"),)),
        (
            "Recovery",
            "short",
            (
                ("sum by (role) (export_table_recovery_remaining)", "records left, {{role}}"),
                ("max by (role) (export_table_recovery_records)", "records of the last, {{role}}"),
                ("max by (role) (export_table_recovering)", "under way, {{role}}"),
            ),
        ),
        ("Last recovery", "s", (("max by (role) (export_table_recovery_seconds)", "{{role}}"),)),
        (
            "Tables",
            "short",
            (
                ("sum by (table) (export_table_entries)", "{{table}}"),
                ("sum by (table) (export_table_unsent_entries)", "{{table}}, not sent yet"),
            ),
        ),
        ("Memory", "bytes", (("process_resident_memory_bytes and on (instance) export_worker_info", "{{instance}}"),)),
    ),
}
"""Row -> (title, Grafana's unit, (PromQL, legend)…)."""

_EXPLAINED = """<!-- Made by `python -m deploy.generate` from metric_names.py and rules.yml: change those. -->

# Metrics, health and alarms

With `EXPORT_METRICS_PORT` set, a worker answers on that port. Nothing there is secret, and nobody is asked who he is:
keep it inside your network.

| Path | Says |
|---|---|
| `/metrics` | Prometheus' text, or OpenMetrics if asked for |
| `/livez` | 200 as long as the worker's loop runs and nothing fatal has happened. No answer: restart it |
| `/startupz` | 200 when it has started: connections, consumer groups, tables recovered |
| `/readyz` | 200 when it works; else 503 and a sentence for each trouble |

Troubles are: it waits for its group, recovers tables, drains, Kafka confirms nothing or says no offsets, or a partition has records to
read and has not moved for `EXPORT_METRICS_STALL_SECONDS` though its role had room for them.

A worker counts from 0 after its start, as Prometheus expects. What it counted after Prometheus' last look is lost when it is killed.
Records, files and outcomes are counted with their repeats, as they are work; jobs and answers once. Lags are by the broker's own offsets,
and each worker of a role tells those of its whole group, so take `max by (role, topic, partition)`.

Provided: a [dashboard](../deploy/grafana/export-service.json), [rules](../deploy/prometheus/rules.yml) for Prometheus, and
[alarms](../deploy/cloudwatch/alarms.yml) for CloudWatch, of what workers write with `EXPORT_METRICS_EMF_SECONDS=60`.
`export-service doctor` says whether settings, topics, permissions and clocks are right.

## Metrics

"""


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    source, y = {"type": "prometheus", "uid": "${datasource}"}, 0
    for row, content in _PANELS.items():
        panels.append(
            {"type": "row", "title": row, "id": len(panels) + 1, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []}
        )
        y += 1
        for number, (title, unit, queries) in enumerate(content):
            panels.append(
                {
                    "type": "timeseries",
                    "title": title,
                    "id": len(panels) + 1,
                    "datasource": source,
                    "gridPos": {"h": 8, "w": 8, "x": 8 * (number % 3), "y": y + 8 * (number // 3)},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                    "targets": [
                        {"refId": chr(ord("A") + each), "datasource": source, "expr": expression, "legendFormat": legend}
                        for each, (expression, legend) in enumerate(queries)
                    ],
                }
            )
        y += 8 * -(-len(content) // 3)
    variable = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "export-service",
        "uid": "export-service",
        "tags": ["export-service"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": panels,
    }


def page() -> str:
    lines = [_EXPLAINED, "| Metric | Kind | Role | Says |", "|---|---|---|---|"]
    for metric in ALL:
        labels = ", ".join(metric.labels)
        values = "".join(
            f" `{label}`: {', '.join(known)}." for label, known in metric.labels.items() if known and known[0] not in metric.says
        )
        name = metric.name + (f"{{{labels}}}" if labels else "")
        kind = "histogram" if metric.kind is Kind.HISTOGRAM else metric.kind.value
        lines.append(f"| `{name}` | {kind} | {metric.where} | {metric.says}.{values} |")
    lines += ["", "Besides, `process_…` of the worker's own process: memory, processor time, open files.", "", "## Alarms", ""]
    lines += ["| Alarm | Rings when | First |", "|---|---|---|"]
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        # As HTML: of an escaped bar inside a code span, GitHub and Python-Markdown think differently.
        condition = escape(rule["expr"] + (f" for {rule['for']}" if "for" in rule else ""), quote=False).replace("|", "&#124;")
        alert = f"[{rule['alert']}](runbook.md#{rule['alert'].lower()}) ({rule['labels']['severity']})"
        lines.append(f"| {alert} | <code>{condition}</code> | {rule['annotations']['action']} |")
    return "\n".join(lines) + "\n"


@cache
def files() -> dict[Path, str]:
    return {
        DASHBOARD: json.dumps(dashboard(), indent=1) + "\n",
        DOCS / "metrics.md": page(),
        DOCS / "settings.md": pages.settings_page(),
        DOCS / "topics.md": pages.topics_page(),
        DOCS / "messages.md": asyncapi.page(),
        DOCS / "asyncapi.yaml": asyncapi.text(),
        DOCS / "cli.md": pages.cli_page(),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
