"""What replays print for people."""

from collections.abc import Iterable, Sequence

from export_service.history.actions import Action
from export_service.verify.finding import Difference

_SHOWN = 20


def differences_text(differences: Sequence[Difference]) -> str:
    if not differences:
        return ""
    lines = [f"{'field':<20} {'recorded':<24} {'folded now':<24} where"]
    for each in differences[:_SHOWN]:
        lines.append(f"{each.field:<20} {_short(each.found):<24} {_short(each.fold):<24} job {each.job}, {each.where}")
    if len(differences) > _SHOWN:
        lines.append(f"{len(differences) - _SHOWN:,} more; --json has all")
    return "\n".join(lines) + "\n"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def actions_text(mode: str, planned: Sequence[Action], *, resumed: int) -> str:
    todo, rest = [each for each in planned if each.do], [each for each in planned if not each.do]
    done = f", {resumed:,} done before" if resumed else ""
    lines = [f"Plan: {mode} {len(todo):,} of {len(planned):,} jobs{done}", *_named(todo)]
    if rest:
        lines += [f"Nothing to do, or not possible, for {len(rest):,}:", *_named(rest)]
    return "\n".join(lines) + "\n" + differences_text([each for action in todo for each in action.differences])


def _named(some: Sequence[Action]) -> Iterable[str]:
    for each in some[:_SHOWN]:
        yield f"  {each.job_id}  attempt {each.attempt}"
        yield f"      {each.why}"
    if len(some) > _SHOWN:
        yield f"  {len(some) - _SHOWN:,} more; --json has all"
