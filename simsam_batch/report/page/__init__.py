"""``simsam report``: one static HTML page about a run, with its pictures beside it."""
