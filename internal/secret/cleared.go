package secret

import (
	"runtime"
	"unsafe"
)

// minBlock is the size from which an object has a block of memory to itself. The runtime puts smaller ones without pointers into blocks
// that they share (runtime.SetFinalizer).
const minBlock = 16

// Cleared returns the parts, joined, in memory of their own, which is overwritten with zeros when nothing refers to it any more. That
// is after the next garbage collection, which comes at least every two minutes. Copies that others make of the text are theirs.
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
