package rewrap

import "time"

// AtEachStep has a job call at with the name of each step, and take no more than batch keys at once.
func AtEachStep(j *Job, batch int, at func(step string)) *Job {
	j.batch, j.at = batch, at
	return j
}

// Hasten has a job pause for no time between its passes.
func Hasten(j *Job) *Job {
	j.pause = time.Microsecond
	return j
}

// The steps of a batch and of the canary, in their order.
func Steps() []string {
	return []string{"read", "rewrapped", "verified", "stored", "read back", "canary verified", "canary stored"}
}
