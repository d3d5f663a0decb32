package bench

import (
	"bytes"
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

var helloSession = regexp.MustCompile(`"session_id":"(\w+)"`)

func connectPlanes(b *testing.B, servers []*process, token string, count int) *planes {
	b.Helper()
	epoll, err := syscall.EpollCreate1(0)
	require.NoError(b, err)
	p := &planes{epoll: epoll, all: map[int32]*plane{}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}}
	for i := range count {
		p.connect(b, servers[i%len(servers)], token)
	}
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
func (p *planes) connect(b *testing.B, server *process, token string) {
	b.Helper()
	address := strings.TrimPrefix(server.dataPlane, "http://")
	conn, err := net.Dial("tcp", address)
	require.NoError(b, err)
	defer func() { _ = conn.Close() }() // epoll has a copy of the socket
	_, err = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, token)
	require.NoError(b, err)
	require.NoError(b, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	var text []byte
	for buffer := make([]byte, 4096); !bytes.Contains(text, []byte("event: heartbeat")); {
		n, err := conn.Read(buffer)
		require.NoError(b, err, string(text))
		text = append(text, buffer[:n]...)
	}
	session := helloSession.FindSubmatch(text)
	require.NotNil(b, session, string(text))
	tcp, isTCP := conn.(*net.TCPConn)
	require.True(b, isTCP)
	file, err := tcp.File()
	require.NoError(b, err)
	defer func() { _ = file.Close() }()
	fd, err := syscall.Dup(int(file.Fd()))
	require.NoError(b, err)
	require.NoError(b, syscall.SetNonblock(fd, true))
	p.all[int32(fd)] = &plane{session: string(session[1]), ackURL: server.dataPlane + "/v1/acknowledgements", token: token}
	require.NoError(b, syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}))
}

// expect begins to wait for the revocation of a key.
func (p *planes) expect(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = []byte("event: key.revoked\ndata: {\"customer_id\":\"acme\",\"key_id\":\"" + key + `"`)
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
	s.tail = append(s.tail[max(0, len(s.tail)-512):], text...)
	if p.wanted != nil && !s.told && bytes.Contains(s.tail, p.wanted) {
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
	s.owes, s.tail = false, nil
	wait := time.Duration(within/2+rand.IntN(within/2+1)) * time.Millisecond
	time.AfterFunc(wait, func() { p.acknowledge(s, fmt.Sprintf(`{"session_id":%q,"position":%q}`, s.session, position)) })
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
