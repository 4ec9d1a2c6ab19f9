"""What a broker tells of itself, made into what people look at: rates, groups of failures, the verdict."""
