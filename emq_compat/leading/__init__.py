"""Which of several beats of one schedule leads, and what they know together: in Redis, SQL, or our broker."""
