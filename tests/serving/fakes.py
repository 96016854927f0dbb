"""A recommender without a model: its speed and its failures are the test's, its answers depend on the whole request."""

import dataclasses
import threading
import time
import types

import numpy as np

from tsrec_jax.data.catalogue import shown_facts, unknown_item
from tsrec_jax.errors import UserError
from tsrec_jax.serving.answers import Answer, Coding, Neighbour, PathStep, Recommendation
from tsrec_jax.serving.catalogue_items import LiveItem
from tsrec_jax.serving.catalogue_search import CatalogueSearch
from tsrec_jax.serving.live_catalogue import AlreadyThere

SLOW_K = 49  # a request for so many items takes a second
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def codes_of(item):
    return tuple(int(token.strip("<>").split("_")[1]) for token in item.sid)


class FakeCatalogue:
    """The part of a LiveCatalogue that the service uses."""

    num_levels = 3
    last_change = 0
    behind = 0.0

    def __init__(self, items):
        self._items = {item.id: item for item in items}
        self.changes = types.SimpleNamespace(count=0)
        self._index = CatalogueSearch(self._items.values())
        self.search = types.SimpleNamespace(built=self._index, failure="", prepare=lambda: None)

    @property
    def num_items(self):
        return len(self._items)

    def get(self, item_id):
        return self._items.get(item_id)

    def item(self, item_id):
        if item_id not in self._items:
            raise unknown_item(item_id, list(self._items), len(self._items))
        return self._items[item_id]

    def titled(self, title):
        return [self._items[item_id] for item_id in self._index.titled(title)]

    def find(self, text, limit):
        return [self._items[item_id] for item_id in self._index.find(text, limit)]

    def put(self, item_id, title, sid, blocked=False, who="", **facts):
        if len(sid) != self.num_levels:
            raise UserError(f"a SID has {self.num_levels} tokens")
        before = self.get(item_id)
        self._set(item_id, LiveItem(item_id, title, tuple(sid), blocked, **facts))
        return before is None

    def change(self, item_id, stated, who=""):
        self._set(item_id, dataclasses.replace(self.item(item_id), **stated))
        return self._items[item_id]

    def remove(self, item_id, who=""):
        self._set(self.item(item_id).id, None)

    def block(self, item_ids, blocked=True):
        for item_id in item_ids:
            self.change(item_id, {"blocked": blocked})

    def _set(self, item_id, item):
        self._index.follow([(self._items.get(item_id), item)])
        if item is None:
            del self._items[item_id]
        else:
            self._items[item_id] = item

    @property
    def trie(self):
        return types.SimpleNamespace(sid_codes=lambda: np.array(sorted({codes_of(item) for item in self.all()})))

    def members(self, codes):
        return [item for item in self.all() if codes_of(item) == tuple(codes) and not item.blocked]

    def all(self):
        return list(self._items.values())


class FakeRecommender:
    """`gate` holds every batch until it is set; `failures` are raised, one a batch; `batches` is what was asked."""

    def __init__(self, count=30, *, max_batch=4, seconds=0.0, warm_up_steps=2, version="first"):
        items = [
            LiveItem(f"B{n:03d}", f"Thing {n}", (f"<a_{n % 4}>", f"<b_{n % 7}>", f"<c_{n}>")) for n in range(count)
        ]
        self.catalogue = FakeCatalogue([*items, LiveItem("EVIL", EVIL, ("<a_1>", "<b_1>", "<c_99>"))])
        self.max_batch = max_batch
        self.beams = 50
        self.seconds = seconds
        self.warm_up_steps = warm_up_steps
        self.warmed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.computing = threading.Event()
        self.failures = []
        self.batches, self.widths = [], []
        self.proves = 1  # the width that proves an answer
        self.version = version
        self.put_items = []

    def vector(self, item):
        return None

    def put(self, item, sid=None, *, vector_K=None, blocked=None, only_new=False, who=""):
        if only_new and self.catalogue.get(item.id) is not None:
            raise AlreadyThere(f"item {item.id!r} is in the catalogue already")
        self.put_items.append(item)
        if blocked is None:
            blocked = self.catalogue.get(item.id) is not None and self.catalogue.get(item.id).blocked
        if sid is not None or self.catalogue.get(item.id) is not None:
            sid = sid or self.catalogue.get(item.id).sid
            return self.catalogue.put(item.id, item.title, sid, blocked, who=who, **shown_facts(item)), None
        sid = ("<a_1>", "<b_2>", "<c_500>")
        self.catalogue.put(item.id, item.title, sid, blocked, **shown_facts(item))
        return True, Coding(sid, 0.75, (), (Neighbour("B001", "Thing 1", ("<a_1>", "<b_1>", "<c_1>"), 0.5),))

    def check(self, request, beams=None):
        if not request.history:
            raise UserError("the history is empty")
        if not 1 <= request.k <= (beams or self.beams):
            raise UserError(f"k={request.k}: between 1 and the beams, {self.beams}")
        for item_id in (*request.history, *request.exclude, *(request.allow or ())):
            if not request.skip_unknown:
                self.catalogue.item(item_id)

    def answer(self, requests, beams=None):
        self.batches.append(list(requests))
        self.widths.append(beams)
        self.computing.set()
        assert self.gate.wait(30)
        time.sleep(1.0 if any(request.k == SLOW_K for request in requests) else self.seconds)
        if self.failures:
            raise self.failures.pop(0)
        for request in requests:
            self.check(request, beams)
        answers = [self.alone(request) for request in requests]
        return [dataclasses.replace(answer, exact=(beams or self.beams) >= self.proves) for answer in answers]

    def alone(self, request):
        """The answer to one request, whatever else is computed with it."""
        history = [item for item in request.history if self.catalogue.get(item)]
        skipped = tuple(item for item in request.history if item not in history) if request.skip_unknown else ()
        out = set(request.exclude) | (set(request.history) if request.exclude_history else set())
        items = [
            item
            for item in self.catalogue.all()
            if item.id not in out and not item.blocked and (request.allow is None or item.id in request.allow)
        ]
        numbers = [int(item_id[1:]) if item_id[1:].isdigit() else 0 for item_id in history]
        shift = sum(position * number for position, number in enumerate(numbers, 1))
        ranked = [items[(shift + place) % len(items)] for place in range(min(request.k, len(items)))]
        return Answer(
            tuple(recommendation(item, place) for place, item in enumerate(ranked)),
            exact=True,
            used=len(history),
            skipped=skipped,
        )

    def warm_up(self, report, *, max_history, wide=(), opened=lambda beams: None):
        for step in range(1, self.warm_up_steps + 1):
            report(f"warm-up: program {step} of {self.warm_up_steps}")
            self.warmed = step
            assert self.gate.wait(30)
        self.warmed_widths = [self.beams, *wide]
        for beams in self.warmed_widths:
            opened(beams)


def recommendation(item, place):
    scores = [-0.1 * (place + 1), -0.7, -1.3]
    path = tuple(
        PathStep(token, score, (f"kind {token.strip('<>')}", "thing"), f"Things of kind {token.strip('<>')}.")
        for token, score in zip(item.sid, scores, strict=True)
    )
    return Recommendation(item.id, item.title, sum(scores), "".join(item.sid), path, **shown_facts(item))
