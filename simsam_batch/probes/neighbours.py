import torch


class Neighbours:
    def __init__(s, q, k, S, C, **k2):
        s.q = torch.nn.functional.normalize(q, dim=1)
        s.k = k
        s.S = S
        s.f = []
        s.l = []
        s.m = []

    def add(s, f, l, m, first):
        s.f.append(f)
        s.l.append(l)
        s.m.append(m)

    def result(s):
        f = torch.nn.functional.normalize(torch.cat(s.f), dim=1)
        l = torch.cat(s.l)
        m = torch.cat(s.m, 1)
        sim = s.q @ f.T
        S = []
        I = []
        L = []
        for i in range(s.S):
            x = sim.masked_fill(~m[i], -9).topk(s.k, dim=1)
            S.append(x.values)
            I.append(x.indices)
            L.append(l[x.indices])
        return torch.stack(S), torch.stack(I), torch.stack(L)


def vote(s, l, t):
    w = torch.softmax(s / t, -1)
    return (w[..., None] * l).sum(2)
