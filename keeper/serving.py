"""What the HTTP server shows, made of the parts that know it."""

from collections.abc import Mapping

from keeper.explain import Explainer
from keeper.observe.api import Reads
from keeper.observe.http import Views
from keeper.status import Status


def views_of(status: Status) -> Views:
    """Return what the HTTP server shows; reads the token, or raises ConfigError."""
    token = status.settings.http.token
    return Views(
        metrics=status.metrics,
        late=status.heartbeats.late,
        unready=status.unready,
        status=status.snapshot,
        reads=_reads(status),
        pause=status.brakes.pause,
        token=token.read() if token else None,
    )


def _reads(status: Status) -> Reads:
    explainer = Explainer(status.pipeline.desks, status.quarantine, status.clock)

    def config() -> Mapping[str, object]:
        return status.settings.show()  # those in effect then

    return Reads(
        accounts=explainer.nearest,
        candidates=explainer.candidates,
        account=explainer.account,
        config=config,
    )
