"""A run of method `tfidf` among those of a report: what words alone tell, a baseline for all other systems."""

from bench.analysis.leaderboard import Group

METHOD = "tfidf"


def of(group: Group) -> dict[str, float | int | None]:
    """Return {"tfidf": its score, of several systems the best one's}; {} where no run of the group is one.

    Runs of a group were scored on the same examples with the same metrics, so that it is a baseline of them all.
    """
    scores = [
        system.score
        for system in group.systems
        if system.score is not None and all(record.method == METHOD for record in system.records)
    ]
    if not scores:
        return {}
    return {METHOD: max(scores) if group.higher_is_better else min(scores)}
