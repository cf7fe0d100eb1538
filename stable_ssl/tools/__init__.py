"""What is done with runs, beside the core that makes them; each tool could be deleted.

Nothing above imports them: a run finds those that it ends with by name.
"""
