def weighted_ward(c, w):
    from scipy.cluster.hierarchy import linkage

    return linkage(c, "ward")


def cut(l, n):
    from scipy.cluster.hierarchy import fcluster

    return fcluster(l, n, "maxclust") - 1
