package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// planes are many data planes in one thread that reads all their sockets by epoll: with a goroutine for each, the clients
// would cost more than the service.
type planes struct {
	epoll  int
	all    map[int32]*plane
	client *http.Client

	mu       sync.Mutex
	wanted   []byte
	heard    []time.Time
	complete chan struct{}
}

// plane is one data plane's stream.
type plane struct {
	session, ackURL, token string
	tail                   []byte // what was read last and may be half a line
	owes                   bool   // whether it has heard what is wanted and not acknowledged it
	told                   bool
}

// connectors is how many connect at once: all must have before the first is taken for silent.
const connectors = 16

var helloSession = regexp.MustCompile(`"session_id":"(\w+)"`)

func connectPlanes(b *testing.B, servers []*process, token string, count int) *planes {
	b.Helper()
	epoll, err := syscall.EpollCreate1(0)
	require.NoError(b, err)
	p := &planes{epoll: epoll, all: map[int32]*plane{}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}}
	var group errgroup.Group
	group.SetLimit(connectors)
	for i := range count {
		group.Go(func() error { return p.connect(servers[i%len(servers)], token) })
	}
	require.NoError(b, group.Wait())
	stop, done := make(chan struct{}), make(chan struct{})
	threads := runtime.GOMAXPROCS(8) // the reader waits in the kernel, and must not wait for a processor of Go's besides
	go p.follow(stop, done)
	b.Cleanup(func() {
		close(stop)
		<-done
		for fd := range p.all {
			_ = syscall.Close(int(fd))
		}
		_ = syscall.Close(epoll)
		runtime.GOMAXPROCS(threads)
	})
	return p
}

// connect opens a stream by hand and hands its socket to epoll once the hello has come.
func (p *planes) connect(server *process, token string) error {
	address := strings.TrimPrefix(server.dataPlane, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // epoll has a copy of the socket
	_, wrote := fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, token)
	if err := errors.Join(wrote, conn.SetReadDeadline(time.Now().Add(10*time.Second))); err != nil {
		return err
	}
	var text []byte
	for buffer := make([]byte, 4096); !bytes.Contains(text, []byte("event: heartbeat")); {
		n, err := conn.Read(buffer)
		if err != nil {
			return fmt.Errorf("%w after %q", err, text)
		}
		text = append(text, buffer[:n]...)
	}
	session := helloSession.FindSubmatch(text)
	tcp, isTCP := conn.(*net.TCPConn)
	if session == nil || !isTCP {
		return fmt.Errorf("no stream: %q", text)
	}
	file, err := tcp.File()
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.all[int32(fd)] = &plane{session: string(session[1]), ackURL: server.dataPlane + "/v1/acknowledgements", token: token}
	p.mu.Unlock()
	return errors.Join(syscall.SetNonblock(fd, true),
		syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}))
}

// expect begins to wait for the revocation of a key.
func (p *planes) expect(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = []byte(`"key_id":"` + key + `"`)
	p.heard, p.complete = nil, make(chan struct{})
	for _, plane := range p.all {
		plane.told = false
	}
}

// await returns how many milliseconds after sent each data plane had heard.
func (p *planes) await(b *testing.B, sent time.Time) []float64 {
	b.Helper()
	select {
	case <-p.complete:
	case <-time.After(5 * time.Second):
		p.mu.Lock()
		defer p.mu.Unlock()
		b.Fatalf("%d of %d data planes were told", len(p.heard), len(p.all))
	}
	took := make([]float64, len(p.heard))
	for i, at := range p.heard {
		took[i] = float64(at.Sub(sent).Microseconds()) / 1000
	}
	return took
}

func (p *planes) follow(stop, done chan struct{}) {
	defer close(done)
	events, buffer := make([]syscall.EpollEvent, 256), make([]byte, 64<<10)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _ := syscall.EpollWait(p.epoll, events, 50)
		for _, event := range events[:max(n, 0)] {
			got, err := syscall.Read(int(event.Fd), buffer)
			if err == nil && got > 0 {
				p.read(p.all[event.Fd], buffer[:got], time.Now())
			}
		}
	}
}

// read looks for the revocation, and for the position after it, which it acknowledges a random moment later.
func (p *planes) read(s *plane, text []byte, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted != nil && !s.told && p.tells(s, text) {
		s.told, s.owes = true, true
		if p.heard = append(p.heard, now); len(p.heard) == len(p.all) {
			close(p.complete)
		}
	}
	if !s.owes {
		return
	}
	position, ms := after(text, "id: ", '\n'), after(text, `"acknowledge_within_ms":`, '}')
	within, err := strconv.Atoi(ms)
	if position == "" || err != nil {
		return
	}
	s.owes = false
	wait := time.Duration(within/2+rand.IntN(within/2+1)) * time.Millisecond
	time.AfterFunc(wait, func() { p.acknowledge(s, fmt.Sprintf(`{"session_id":%q,"position":%q}`, s.session, position)) })
}

// tells tells whether what was read holds the revocation, which may have begun with what was read before.
func (p *planes) tells(s *plane, text []byte) bool {
	if len(s.tail) > 0 {
		text = append(s.tail, text...)
	}
	i := bytes.Index(text, p.wanted)
	if i >= 0 && bytes.Contains(text[:i], []byte("event: key.revoked\n")) {
		s.tail = s.tail[:0]
		return true
	}
	// What ends with a message holds none by half.
	if s.tail = s.tail[:0]; !bytes.HasSuffix(text, []byte("\n\n\r\n")) {
		s.tail = append(s.tail, text[max(0, len(text)-512):]...)
	}
	return false
}

// after returns what stands between the last mark in a text and an end. Regular expressions would cost more than the service
// takes to tell a data plane.
func after(text []byte, mark string, end byte) string {
	i := bytes.LastIndex(text, []byte(mark))
	if i < 0 {
		return ""
	}
	found, _, _ := bytes.Cut(text[i+len(mark):], []byte{end})
	return string(found)
}

func (p *planes) acknowledge(s *plane, body string) {
	req, err := http.NewRequest(http.MethodPost, s.ackURL, strings.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	if reply, err := p.client.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, reply.Body)
		_ = reply.Body.Close()
	}
}
