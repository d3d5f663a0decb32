package secret

import (
	"runtime"
	"unsafe"
)

// minBlock is the size in bytes from which an object has its own block of memory. Smaller objects without pointers
// share blocks, for which finalizers may not run (runtime.SetFinalizer).
const minBlock = 16

// Cleared joins the parts in memory that is zeroed once nothing refers to it: after the next garbage collection, which comes at least
// every two minutes. It does not zero copies of the text.
func Cleared[T string | []byte](parts ...T) string {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	memory := make([]byte, 0, max(n, minBlock))
	for _, part := range parts {
		memory = append(memory, part...)
	}
	size := cap(memory)
	first := unsafe.SliceData(memory)                                                   //nolint:gosec // G103: it has the length of memory
	runtime.SetFinalizer(first, func(first *byte) { clear(unsafe.Slice(first, size)) }) //nolint:gosec // G103: nothing refers to it now
	return unsafe.String(first, n)                                                      //nolint:gosec // G103: nothing writes to it while the string is in use
}
