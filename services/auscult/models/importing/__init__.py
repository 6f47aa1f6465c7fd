"""Models that others trained, as entries of the model repository.

One module per source, each with one function `convert(request) -> Converted`; `detect` chooses among them. A source's
framework is imported only there: it is an extra for who imports models, never a part of what runs.
"""
