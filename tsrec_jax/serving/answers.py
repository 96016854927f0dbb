"""What is asked of a recommender, and what it answers."""

from __future__ import annotations

import dataclasses

from tsrec_jax.errors import UserError

MAX_BEAMS = 512  # of the widest search, also of one that goes on until it is exact; so many items can be asked for


class NoEncoder(UserError):
    """No item can be coded: the encoder of the training is not to be had here, or another one is in its place.

    Args:
      reason: in one line.
      retry_after: whole seconds until it is tried again.
    """

    def __init__(self, reason: str, retry_after: int = 0):
        super().__init__(reason)
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True)
class Request:
    """What one user is to be recommended.

    Attributes:
      history: item ids, oldest first, at least one.
      k: items wanted.
      exclude_history: leave out what the history holds.
      exclude: item ids to leave out.
      allow: item ids that alone may be recommended; None: all.
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
    """A request of the service for another search than the usual one.

    Attributes:
      widths: beams, rising; the search is widened to the next one where it does not prove its answer.
    """

    widths: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PathStep:
    """One token of a SID.

    Attributes:
      token: as the model writes it.
      score: its log-probability in nats, after the prompt and the tokens before it.
      keywords: what the teacher said of the items with this token there; empty where nothing is known.
      description: the same in sentences.
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
      score: log-probability of its SID in nats, the sum over its path; with a fusion, that and the fusion's score.
      path: the model's own log-probabilities; empty where no language model takes part.
      brand: the item's, for people to see, as the next two are; empty where the catalogue does not have it.
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
      used: items of the history that the prompt had room for, the newest ones.
      skipped: ids that are not in the catalogue and were left out, since the request says so.
    """

    items: tuple[Recommendation, ...]
    exact: bool
    used: int
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """An item of the catalogue that a new one is like.

    Attributes:
      id: the item's.
      title: the item's.
      sid: the item's, token by token.
      likeness: cosine of the new item's whitened vector and what this item's SID stands for, -1 to 1.
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
      sure: share of the exported items that their SIDs describe no better than this one describes its item, 0 to 1.
      shared_with: ids of the items that have the same SID: none, unless all codes for items like these are taken.
      neighbours: the items that it is most like, the nearest first, as far as they may be recommended.
    """

    sid: tuple[str, ...]
    sure: float
    shared_with: tuple[str, ...]
    neighbours: tuple[Neighbour, ...]
