"""Reading a run: rows, masks, trees, photographs, scores of what is there already."""
