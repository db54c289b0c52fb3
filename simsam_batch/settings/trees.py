"""How patches become superpixels, and superpixels a tree of regions."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from simsam_batch.settings.declare import Component, result


class Superpixels(Component, title="Superpixels"):
    """Those of `simsam_batch.regions.superpixels.OverClustering`, by the same names."""

    superpixels: int = result(200, "groups of patches that the tree is made of, at most", ge=1)
    adjacency: Literal["minmax", "exp"] = result(
        "minmax", "weights of the patch graph; minmax: falling evenly with the cosine distance"
    )
    sigma: float = result(1.0, "width of the adjacency exp", idle={"adjacency": ["minmax"]}, gt=0)
    min_weight: float = result(0.0, "weights of the patch graph below it become zero", ge=0, lt=1)
    form: Literal["auto", "low-rank", "dense"] = result(
        "auto", "low-rank: no N x N matrix, at most channels + 1 superpixels; auto: wherever it is exact"
    )
    tolerance: float = result(1e-4, "largest residual of an eigenpair", gt=0)
    restarts: int = result(10, "of k-means, of which the best counts; 1 is four times as fast", ge=1)

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
        "max-gap", "parts of a node: by the largest eigengap, or always two"
    )
    eigenpairs: int = result(10, "eigenvalues looked at; a node has one part less, at most", ge=3)
    max_instability: float = result(
        0.0, "how evenly an eigenvector may be spread, 0 to 1, to count as one that divides; 0: any", ge=0, le=1
    )
    max_ncut: float = result(0.8, "mean normalised cut that a split stays below; 0: any", ge=0)
    max_perturbation: float = result(80.0, "perturbation over which a split is refused; 0: any", ge=0)
    min_superpixels: int = result(1, "nodes of so few superpixels stay whole", ge=1)
    max_depth: int = result(9, "depth of the deepest nodes", ge=0)


class Numbering(Component, title="Tree"):
    """How what became a node of its own is named."""

    numbering: Literal["corrected", "upstream"] = result(
        "corrected", "upstream: first leaves keep their parents' labels, as in the published code, to compare"
    )
