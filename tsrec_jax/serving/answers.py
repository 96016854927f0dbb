"""What is asked of a recommender, and what it answers."""

from __future__ import annotations

import dataclasses

from tsrec_jax.errors import UserError

MAX_BEAMS = 512  # of the widest search, even one that continues until it is exact; also the most items per request


class NoEncoder(UserError):
    """No item can be coded: the encoder used in training is not available here, or another one is in its place.

    Args:
      reason: why, in one line.
      retry_after: whole seconds until the next attempt.
    """

    def __init__(self, reason: str, retry_after: int = 0):
        super().__init__(reason)
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class Request:
    """What to recommend to one user.

    Attributes:
      history: item ids, oldest first, at least one.
      k: number of items wanted.
      exclude_history: leave out the items of the history.
      exclude: item ids to leave out.
      allow: the only item ids that may be recommended; None: all.
      skip_unknown: leave out ids that are not in the catalogue, rather than refuse the request.
    """

    history: tuple[str, ...]
    k: int = 10
    exclude_history: bool = False
    exclude: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    skip_unknown: bool = False


@dataclasses.dataclass(frozen=True)
class WideRequest(Request):
    """A request of the service for a search other than the usual one.

    Attributes:
      widths: numbers of beams, rising; a search that does not prove its answer is widened to the next one.
    """

    widths: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PathStep:
    """One token of a SID.

    Attributes:
      token: the token as the model writes it.
      score: its log-probability in nats, given the prompt and the tokens before it.
      keywords: what the teacher said about the items with this token in this place; empty if nothing is known.
      description: the same as sentences.
    """

    token: str
    score: float
    keywords: tuple[str, ...] = ()
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
      item_id: the item's.
      title: the item's.
      sid: the item's, as one text.
      score: log-probability of its SID in nats, the sum over its path; with a fusion, that sum plus the fusion's score.
      path: the model's own log-probabilities; empty if no language model takes part.
      brand: the item's, shown to people like the next two fields; empty if the catalogue does not have it.
      categories: the item's, or empty.
      image: the address of a picture, or empty.
    """

    item_id: str
    title: str
    score: float
    sid: str
    path: tuple[PathStep, ...]
    brand: str = ""
    categories: str = ""
    image: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """The items for one request, best first.

    Attributes:
      items: at most k.
      exact: whether the search proves that no other item scores more.
      used: number of items of the history, the newest ones, that the prompt had room for.
      skipped: ids that are not in the catalogue and were left out because the request says so.
    """

    items: tuple[Recommendation, ...]
    exact: bool
    used: int
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An item of the catalogue that resembles a new one.

    Attributes:
      id: the item's.
      title: the item's.
      sid: the item's, token by token.
      likeness: cosine of the new item's whitened vector and the vector that this item's SID stands for, -1 to 1.
    """

    id: str
    title: str
    sid: tuple[str, ...]
    likeness: float


@dataclasses.dataclass(frozen=True)
class Coding:
    """How an item got its SID.

    Attributes:
      sid: its tokens.
      sure: share of the exported items whose SIDs describe them no better than this SID describes its item, 0 to 1.
      shared_with: ids of the items that have the same SID; empty unless all codes for such items are taken.
      neighbours: the most similar items that may be recommended, the nearest first.
    """

    sid: tuple[str, ...]
    sure: float
    shared_with: tuple[str, ...]
    neighbours: tuple[Neighbour, ...]
