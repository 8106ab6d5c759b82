"""Plausible wrong answers, as edits of the solutions, with words that the diagnosis must contain.

In each file WRONG is {exercise: [(text, replacement, word, …), …]}. Instead of text and replacement
stands a dict of several, or one string, the whole answer.
"""
