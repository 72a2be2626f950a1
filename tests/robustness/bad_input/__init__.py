"""Everything that can be wrong with what a user gives, as one table of cases, and what the toolkit says to each.

A row of the table is a letter and a number: C configuration, L command line, D data, F files of a run, A calls in
Python, E exit statuses; an id such as ``C3-steps-as-string`` is a case of it.
``tests/robustness/test_bad_input.py`` runs the cases in pytest.
``python -m bad_input`` runs them without, so that they can be held against ``python -O -W error``.
"""
