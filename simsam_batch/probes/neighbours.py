"""Exact nearest neighbours of patches in a bank that streams by, for several subsets of the bank in one pass.

Which rows are neighbours must not depend on the sizes of blocks, but a float32 product's last bits do. So the search
has two steps (this project). A float32 product of a tile of the bank with a tile of the queries leaves out what lies
farther below the k-th best so far than rounding can explain. What remains is scored again without rounding, in fixed
point. Of equal similarities the smaller index counts. The answer is the same bits for any blocks, any order of them,
any division of the bank and any number of threads.

A tile's scores stay in the processor's cache. Maxima of a few rows at a time tell where there is anything to look at:
after the first tiles, nearly nowhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from simsam_batch.probes.fixed_point import TINIEST, Metric, Rows, in_fixed_point, rough_error
from simsam_batch.probes.threads import side_by_side

# Rows of the bank and queries in a tile of scores: 8 MiB on a CPU, 512 MiB elsewhere.
_TILE_ON_CPU = (2048, 1024)
_TILE_ON_DEVICE = (16_384, 8192)
_GROUP = 16
# Rows of the bank that all are compared with each query, before there is a k-th best.
_FIRST = 512
# Beyond this share of all pairs, scoring all of them again is quicker than scoring the pairs.
_FEW = 1 / 8
# Entries of the bank that are held as whole numbers, and again as float32, at a time: 32 MiB each.
_HELD = 2**23
# Entries of float64 in what is scored again at a time: 2 MiB, which the allocator keeps.
_SCORED = 2**18
_NOWHERE = torch.iinfo(torch.int64).max


class Nearest(NamedTuple):
    """The k nearest rows of each of S subsets of the bank, for each of Q queries.

    Attributes:
        similarities: (S, Q, k) float32, descending.
        indices: (S, Q, k) int64, the rows' numbers in the whole bank; of equal similarities the smaller number first.
        labels: (S, Q, k, C) float32, the rows' soft labels.
    """

    similarities: Tensor
    indices: Tensor
    labels: Tensor


class Neighbours:
    """The k nearest rows so far, of a bank that is added block by block and may be divided over processes.

    Memory beyond the results is that of the queries and of a few fixed buffers, whatever the size of the bank.

    Args:
        queries: (Q, D) floating point, any device, Q and D at least 1; all else is to come from the same device.
        k: neighbours wanted, at least 1.
        subsets: S, subsets of the bank that are searched at once, such as label budgets; nested or not.
        classes: C, entries of a row's label.
        metric: ``cosine``, for which rows need not be of unit length and rows of zeros have similarity 0 to
            everything; or ``inner``, the inner product of the rows as they are.

    Raises:
        ValueError: for numbers that are not positive, queries that are no matrix, or a query that is not finite.
    """

    def __init__(self, queries: Tensor, k: int, *, subsets: int = 1, classes: int, metric: Metric = "cosine") -> None:
        if min(k, subsets, classes) < 1:
            raise ValueError(f"k={k}, subsets={subsets} and classes={classes} must be at least 1")
        if metric not in ("cosine", "inner"):
            raise ValueError(f"metric={metric!r} is not known; use 'cosine' or 'inner'")
        self.k = k
        self.metric: Metric = metric
        self._queries = in_fixed_point(queries, metric, "query")
        shape = (subsets, len(self._queries), k)
        # What is made in torch's inference mode could not change outside of it.
        with torch.inference_mode(False):
            self._similarities = torch.full(shape, -math.inf, device=queries.device)
            self._indices = torch.full(shape, _NOWHERE, device=queries.device)
            self._labels = torch.zeros(*shape, classes, device=queries.device)
        self._members = [0] * subsets
        # All indices so far are below this: rows that come in order need no sorting by index.
        self._next = 0

    def add(self, features: Tensor, labels: Tensor, members: Tensor, *, first: int) -> None:
        """Look for neighbours in one more block of the bank; blocks may come in any order.

        Args:
            features: (M, D) floating point, M of any size.
            labels: (M, C) floating point, a distribution over classes for each row, or whatever a vote is to average.
            members: (S, M) bool, the rows that belong to each subset.
            first: number of the block's first row in the whole bank.

        Raises:
            ValueError: if shapes do not fit, ``first`` is negative, or a row is not finite.
        """
        subsets, _, _, classes = self._labels.shape
        width = self._queries.whole.shape[1]
        if features.ndim != 2 or features.shape[1] != width:
            raise ValueError(f"features have shape {tuple(features.shape)}; the queries have {width} channels")
        if labels.shape != (len(features), classes):
            raise ValueError(f"labels have shape {tuple(labels.shape)}, not {(len(features), classes)}")
        if members.shape != (subsets, len(features)) or members.dtype != torch.bool:
            shape = tuple(members.shape)
            raise ValueError(f"members are {members.dtype} of shape {shape}, not bool of {(subsets, len(features))}")
        if first < 0:
            raise ValueError(f"first={first} is no number of a row")
        tile = _tile(features.device)[0]
        rows = max(_HELD // width // tile, 1) * tile
        for start in range(0, len(features), rows):
            part = slice(start, start + rows)
            bank = in_fixed_point(features[part], self.metric, "row", first + start)
            self._add(bank, labels[part].float(), members[:, part], first + start)

    def _add(self, bank: Rows, labels: Tensor, members: Tensor, first: int) -> None:
        sizes = members.sum(dim=1).tolist()
        everyone = [size == len(bank) for size in sizes]
        ordered = first >= self._next

        def search(part: slice) -> None:
            best = self._best(part, ordered)
            tile = _tile(labels.device)[0]
            room = labels.new_empty(min(tile, len(bank)), len(best[0].queries))
            for start in range(0, len(bank), tile):
                rows = bank[start : start + tile]
                scores = torch.mm(rows.rough, best[0].queries.rough.T, out=room[: len(rows)])
                for own, belongs, all_in in zip(best, members[:, start : start + tile], everyone, strict=True):
                    own.look(scores, rows, None if all_in else belongs.nonzero()[:, 0], start, first)
            for own in best:
                own.settle(labels)

        with side_by_side(labels.device) as each:
            each(search, self._parts())
        self._members = [a + b for a, b in zip(self._members, sizes, strict=True)]
        self._next = max(self._next, first + len(bank))

    def merge(self, other: Neighbours) -> None:
        """Take in what the same queries found in another part of the bank; in any order, with the same result.

        Raises:
            ValueError: if ``other`` has other queries, another k, metric, number of subsets or of classes.
        """
        mine, theirs = self._labels.shape, other._labels.shape
        if mine != theirs or self.metric != other.metric:
            raise ValueError(f"{self.metric} {tuple(mine)} and {other.metric} {tuple(theirs)} cannot be merged")
        if not (
            torch.equal(self._queries.whole, other._queries.whole)
            and torch.equal(self._queries.scale, other._queries.scale)
        ):
            raise ValueError("neighbours of different queries cannot be merged")
        for part in self._parts():
            for subset, own in enumerate(self._best(part, ordered=False)):
                similarities, indices = other._similarities[subset, part], other._indices[subset, part]
                query, place = (indices != _NOWHERE).nonzero(as_tuple=True)
                own.wait(query, similarities[query, place], indices[query, place], query * self.k + place)
                own.settle(other._labels[subset, part].flatten(0, 1))
        self._members = [a + b for a, b in zip(self._members, other._members, strict=True)]
        self._next = max(self._next, other._next)

    def result(self) -> Nearest:
        """The neighbours among all rows so far; what is added later changes these tensors.

        Raises:
            ValueError: if a subset has fewer members than k, or a row of the bank was added twice.
        """
        for subset, count in enumerate(self._members):
            if count < self.k:
                raise ValueError(f"subset {subset} of the bank has {count} rows, which are fewer than k={self.k}")
        # Rows of one index have one similarity, and so stand next to each other.
        twice = self._indices[:, :, 1:] == self._indices[:, :, :-1]
        if twice.any():
            raise ValueError(f"row {int(self._indices[:, :, 1:][twice][0])} of the bank was added twice")
        return Nearest(self._similarities, self._indices, self._labels)

    def _parts(self) -> list[slice]:
        step = _tile(self._labels.device)[1]
        return [slice(start, start + step) for start in range(0, len(self._queries), step)]

    def _best(self, part: slice, ordered: bool) -> list[_Best]:
        """Every subset's best for some of the queries; they change in place."""
        state = zip(self._similarities[:, part], self._indices[:, part], self._labels[:, part], strict=True)
        queries = self._queries[part]
        whole = queries.whole.double()
        return [_Best(queries, whole, *own, ordered=ordered) for own in state]


class _Best:
    """The best rows of one subset for a tile of the queries, and those that wait to be compared with them."""

    def __init__(
        self, queries: Rows, whole: Tensor, similarities: Tensor, indices: Tensor, labels: Tensor, *, ordered: bool
    ) -> None:
        self.queries = queries
        # The queries' whole numbers as float64.
        self._whole = whole
        self._similarities, self._indices, self._labels = similarities, indices, labels
        self._ordered = ordered
        # Where the label of each is to come from: below k from its present place, from there on from the block.
        self._places = torch.arange(similarities.shape[1], device=similarities.device).repeat(len(similarities), 1)
        self._waiting: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._count = 0
        self._error = rough_error(queries)

    def look(self, scores: Tensor, bank: Rows, rows: Tensor | None, start: int, first: int) -> None:
        """Find what in a tile of the bank may be among the best.

        Args:
            scores: (M, Q) float32, the tile's rough similarities.
            bank: the tile's M rows.
            rows: numbers of those that belong to the subset; None for all.
            start: number of the tile's first row in the block, whose labels `settle` gets.
            first: number of the block's first row in the whole bank.
        """
        if rows is not None:
            scores = scores.index_select(0, rows)
        looked = 0
        if len(scores) and bool((self._similarities[:, -1] == -math.inf).any()):
            # Without k rows nothing can be left out: the first few give a bar for the others.
            looked = min(max(_FIRST, 4 * self._similarities.shape[1]), len(scores))
            self._look_at_all(bank, rows, slice(0, looked), start, first)
            self._compare()
        if looked == len(scores):
            return
        bar = (self._similarities[:, -1] - self._error * bank.length.max() - TINIEST).float()
        found = _above(scores[looked:], bar)
        if found is None:
            self._look_at_all(bank, rows, slice(looked, len(scores)), start, first)
            return
        row, query = found[0] + looked, found[1]
        row = row if rows is None else rows[row]
        place = row + start
        self.wait(query, self._exactly(bank, row, query), place + first, place)

    def _look_at_all(self, bank: Rows, rows: Tensor | None, part: slice, start: int, first: int) -> None:
        """Find the best among some of the rows without leaving out any, by products in float64."""
        numbers = torch.arange(len(bank), device=bank.whole.device)[part] if rows is None else rows[part]
        row, query, similarity = self._best_of_all(bank.whole[numbers].double(), bank.scale[numbers])
        place = numbers[row] + start
        self.wait(query, similarity, place + first, place)

    def _best_of_all(self, whole: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, queries and similarities of the k best rows for each query; of equal ones the first."""
        similarities = ((whole @ self._whole.T) * self.queries.scale * scale[:, None]).float()
        k = self._similarities.shape[1]
        if len(whole) > k:
            # What `topk` chooses among equals is not said: only the k-th value is its, and then the first of equals.
            last = similarities.T.contiguous().topk(k, dim=1).values[:, -1]
            better, equal = similarities > last, similarities == last
            keep = better | (equal & (equal.cumsum(dim=0) <= k - better.sum(dim=0)))
        else:
            keep = torch.ones_like(similarities, dtype=torch.bool)
        row, query = (keep & (similarities >= self._similarities[:, -1])).nonzero(as_tuple=True)
        return row, query, similarities[row, query]

    def _exactly(self, bank: Rows, row: Tensor, query: Tensor) -> Tensor:
        """Similarities of pairs, (P,) float32."""
        found = torch.empty(len(query), device=query.device)
        step = max(_SCORED // self._whole.shape[1], 1)
        for start in range(0, len(query), step):
            a, b = query[start : start + step], row[start : start + step]
            # `index_select` takes half the time of an index in brackets.
            dots = self._whole.index_select(0, a).mul_(bank.whole.index_select(0, b).double()).sum(dim=1)
            found[start : start + step] = (dots * self.queries.scale[a] * bank.scale[b]).float()
        return found

    def wait(self, queries: Tensor, similarities: Tensor, indices: Tensor, sources: Tensor) -> None:
        """Put aside rows for comparison, each with where its label is; compare once there are many."""
        if len(queries) == 0:
            return
        self._waiting.append((queries, similarities, indices, sources + self._similarities.shape[1]))
        self._count += len(queries)
        if 2 * self._count > self._similarities.numel():
            self._compare()

    def settle(self, labels: Tensor) -> None:
        """Compare what still waits, and fetch labels: from ``labels`` (M, C) for what was found since."""
        if self._count:
            self._compare()
        k = self._similarities.shape[1]
        query = torch.arange(len(self._places), device=labels.device)[:, None]
        chosen = self._labels.flatten(0, 1).index_select(0, (query * k + self._places.clamp(max=k - 1)).flatten())
        new = (self._places >= k).flatten().nonzero()[:, 0]
        chosen[new] = labels.index_select(0, self._places.flatten()[new] - k)
        self._labels.copy_(chosen.view_as(self._labels))

    def _compare(self) -> None:
        """Let the k best of the best so far and of those that wait be the best, and none wait."""
        count, k = self._similarities.shape
        query = torch.arange(count, device=self._indices.device).repeat_interleave(k)
        held = (query, self._similarities.flatten(), self._indices.flatten(), self._places.flatten())
        queries, similarities, indices, places = (
            torch.cat(column) for column in zip(held, *self._waiting, strict=True)
        )
        # By query, then from the best similarity down: equal ones stay in their order, which is that of the indices.
        key = queries * 2**32 + _descending(similarities)
        if self._ordered:
            order = key.argsort(stable=True)
        else:
            order = indices.argsort(stable=True)
            order = order[key[order].argsort(stable=True)]
        ends = torch.bincount(queries, minlength=count).cumsum(dim=0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        order = order[starts[:, None] + torch.arange(k, device=order.device)]
        self._similarities.copy_(similarities[order])
        self._indices.copy_(indices[order])
        self._places = places[order]
        self._waiting, self._count = [], 0


def vote(similarities: Tensor, labels: Tensor, temperature: float | None) -> Tensor:
    """Average the neighbours' labels with weights ``softmax(similarities / temperature)``.

    Hummingbird (arXiv 2306.01667) weighs cosines with a temperature of 0.02.

    Args:
        similarities: (S, Q, k) float32.
        labels: (S, Q, k, C) float32.
        temperature: above 0; None for equal weights.

    Returns:
        (S, Q, C) float32.

    Raises:
        ValueError: for a temperature that is not above 0.
    """
    if temperature is None:
        weights = torch.full_like(similarities, 1 / similarities.shape[-1], dtype=torch.float64)
    elif temperature > 0:
        weights = (similarities.double() / temperature).softmax(dim=-1)
    else:
        raise ValueError(f"temperature={temperature} must be above 0, or None for equal weights")
    total = torch.zeros(labels.shape[:2] + labels.shape[3:], dtype=torch.float64, device=labels.device)
    # One by one: the order of the sum is the neighbours', and no product of all of them takes memory.
    for weight, label in zip(weights.unbind(dim=2), labels.unbind(dim=2), strict=True):
        total.addcmul_(weight[:, :, None], label.double())
    return total.float()


def _above(scores: Tensor, bar: Tensor) -> tuple[Tensor, Tensor] | None:
    """Rows and queries of scores (M, Q) that are not below the queries' bar (Q,); None if they are many.

    For each query the rows ascend.
    """
    most = _FEW * scores.numel()
    whole = len(scores) // _GROUP * _GROUP
    groups = scores[:whole].view(-1, _GROUP, scores.shape[1])
    group, query = (groups.amax(dim=1) >= bar).nonzero(as_tuple=True)
    if len(group) > most:
        return None
    hit, place = (groups[group, :, query] >= bar[query, None]).nonzero(as_tuple=True)
    row, query = group[hit] * _GROUP + place, query[hit]
    if whole < len(scores):
        last, its = (scores[whole:] >= bar).nonzero(as_tuple=True)
        row, query = torch.cat([row, last + whole]), torch.cat([query, its])
    return (row, query) if len(row) <= most else None


def _descending(similarities: Tensor) -> Tensor:
    """Whole numbers from 0 to 2^32 - 1 that ascend as float32 similarities descend, int64."""
    # Adding 0 makes one zero of the two.
    bits = (similarities + 0.0).view(torch.int32)
    ascending = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return 2**31 - 1 - ascending.long()


def _tile(device: torch.device) -> tuple[int, int]:
    return _TILE_ON_CPU if device.type == "cpu" else _TILE_ON_DEVICE
