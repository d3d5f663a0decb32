package aikeys

import "sync"

// maxWaits is how many revokes of one user may wait for their receipts at a time, in each process.
const maxWaits = 20

// waits counts each user's requests that wait.
type waits struct {
	mu     sync.Mutex
	byUser map[string]int // only users who have some; guarded by mu
}

// enter admits a request that will wait, and reports whether the user may have one more. An admitted one calls leave.
func (w *waits) enter(user string) (leave func(), admitted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byUser[user] >= maxWaits {
		return func() {}, false
	}
	if w.byUser == nil {
		w.byUser = map[string]int{}
	}
	w.byUser[user]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.byUser[user]--; w.byUser[user] == 0 {
			delete(w.byUser, user)
		}
	}, true
}
