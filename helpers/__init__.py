"""The code behind the notebooks: one short module for each job, read and proved in the lessons."""
