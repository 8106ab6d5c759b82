"""The code that the notebooks use and explain: one short module for each job."""
