"""A simulation study: do the scores find effects that were planted in the logs?"""
