"""What a network costs, sees and keeps, layer by layer: :func:`striate.inspect`.

By depth: fields and rows are worked out from a recording; result holds them and answers questions; stage, words, table,
markdown, picture and page say them; report is a result that can be said; inspection makes one.
"""
