package rewrap

import "time"

// AtEachStep makes a job call at with the name of each step, and re-wrap at most batch keys at once.
func AtEachStep(j *Job, batch int, at func(step string)) *Job {
	j.batch, j.at = batch, at
	return j
}

// WithoutPauses makes a job pause only a microsecond between its passes.
func WithoutPauses(j *Job) *Job {
	j.pause = time.Microsecond
	return j
}

// Steps returns the steps of a batch and of the canary, in their order.
func Steps() []string {
	return []string{"read", "rewrapped", "verified", "stored", "read back", "canary verified", "canary stored"}
}
