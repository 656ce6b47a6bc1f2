"""The client: a few customers, about two requests per second, so that what depends on traffic stays in use."""

import itertools
import logging
import time

from services.clients import http_call
from services.links import jittered, settings

log = logging.getLogger(__name__)

PERIOD_S = 0.5
CUSTOMERS = 20
VISIT = (
    ("PUT", "/carts/{}"),
    ("GET", "/carts/{}"),
    ("PUT", "/orders/{}"),
    ("GET", "/orders/{}"),
    ("PUT", "/jobs/{}"),
    ("GET", "/counters/api.requests"),
)

if __name__ == "__main__":
    web = settings("client")["web"]
    for customer in itertools.cycle(range(CUSTOMERS)):
        for method, path in VISIT:
            try:
                answer = http_call(web, method, path.format(f"customer-{customer}"), "two apples")
                if answer.status != 200:
                    log.warning("%s %s: %d %.80s", method, path, *answer)
            except OSError as error:
                log.warning("%s %s: %s", method, path, error)
            time.sleep(jittered(PERIOD_S))
