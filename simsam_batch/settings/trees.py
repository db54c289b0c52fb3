"""How patches become superpixels, and superpixels a tree of regions."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from simsam_batch.settings.declare import Component, result

_MERGED = {"tree": ["merge"]}


class Superpixels(Component, title="Superpixels"):
    """Those of `simsam_batch.regions.superpixels.OverClustering`, by the same names."""

    superpixels: int = result(200, "groups of patches that the tree is made of, at most", ge=1)
    adjacency: Literal["minmax", "exp"] = result(
        "minmax", "weights of the patch graph; minmax: falling evenly with the cosine distance", idle=_MERGED
    )
    sigma: float = result(1.0, "width of the adjacency exp", idle={"adjacency": ["minmax"], **_MERGED}, gt=0)
    min_weight: float = result(0.0, "weights of the patch graph below it become zero", idle=_MERGED, ge=0, lt=1)
    form: Literal["auto", "low-rank", "dense"] = result(
        "auto",
        "low-rank: no N x N matrix, at most channels + 1 superpixels; auto: wherever it is exact",
        idle=_MERGED,
    )
    tolerance: float = result(1e-4, "largest residual of an eigenpair", idle=_MERGED, gt=0)
    restarts: int = result(10, "of k-means, of which the best counts; 1 is four times as fast", idle=_MERGED, ge=1)

    @model_validator(mode="after")
    def _the_form_fits_the_graph(self) -> Self:
        if self.form == "low-rank" and self.adjacency != "minmax":
            msg = f"form: 'low-rank' needs the adjacency 'minmax'; allowed with {self.adjacency!r}: auto | dense"
            raise ValueError(msg)
        if self.form == "low-rank" and self.min_weight:
            msg = "form: 'low-rank' needs all weights; allowed with it: min_weight 0"
            raise ValueError(msg)
        return self


class Tree(Component, title="Tree"):
    """Those of `simsam_batch.regions.splitting.SplitRules`, by the same names."""

    heuristic: Literal["max-gap", "fiedler"] = result(
        "max-gap", "parts of a node: by the largest eigengap, or always two", idle=_MERGED
    )
    eigenpairs: int = result(10, "eigenvalues looked at; a node has one part less, at most", idle=_MERGED, ge=3)
    max_instability: float = result(
        0.0,
        "how evenly an eigenvector may be spread, 0 to 1, to count as one that divides; 0: any",
        idle=_MERGED,
        ge=0,
        le=1,
    )
    max_ncut: float = result(0.8, "mean normalised cut that a split stays below; 0: any", idle=_MERGED, ge=0)
    max_perturbation: float = result(80.0, "perturbation over which a split is refused; 0: any", idle=_MERGED, ge=0)
    min_superpixels: int = result(1, "nodes of so few superpixels stay whole", idle=_MERGED, ge=1)
    max_depth: int = result(9, "depth of the deepest nodes", idle=_MERGED, ge=0)


class Growth(Component, title="Tree"):
    """Which way trees grow."""

    tree: Literal["merge", "split"] = result(
        "merge",
        "merge: from patches up, those that touch and are most alike first; split: from the top down, as published",
        unrecorded="split",
    )
    leaves: int = result(64, "of a merged tree, at most", only=_MERGED, ge=1, unrecorded=64)


class Numbering(Component, title="Tree"):
    """How what became a node of its own is named."""

    numbering: Literal["corrected", "upstream"] = result(
        "corrected",
        "upstream: first leaves keep their parents' labels, as in the published code, to compare",
        idle=_MERGED,
    )
