package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// accept lists the media types that Docker accepts for a manifest.
var accept = []string{
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"*/*",
}

// image describes an image of upstream, as pulled through the proxy.
type image struct {
	token    string
	manifest []byte
	digest   string  // of the first layer, which is large
	size     int64   // of the first layer in bytes
	small    []layer // the other layers
}

type layer struct {
	Digest string
	Size   int64
}

// token requests a token of the proxy.
func (s *settings) token() (string, error) {
	var answer struct{ Token string }
	body, err := get(s.proxy+"/jwt/auth?service=dependency_proxy", func(r *http.Request) { r.SetBasicAuth(s.user, s.password) })
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	if err != nil {
		return "", fmt.Errorf("requesting a token: %w", err)
	}
	return answer.Token, nil
}

// image requests a token and pulls the manifest of a tag through the proxy.
func (s *settings) image(tag string) (*image, error) {
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	im := &image{token: token}
	im.manifest, err = get(s.proxy+"/v2/"+s.repository+"/manifests/"+tag, im.authorize)
	var m struct{ Layers []layer }
	if err == nil {
		err = json.Unmarshal(im.manifest, &m)
	}
	if err == nil && len(m.Layers) == 0 {
		err = errors.New("the image has no layers")
	}
	if err != nil {
		return nil, fmt.Errorf("pulling the manifest: %w", err)
	}
	im.digest, im.size, im.small = m.Layers[0].Digest, m.Layers[0].Size, m.Layers[1:]
	return im, nil
}

// authorize sets the headers of a request for a manifest or blob.
func (im *image) authorize(r *http.Request) {
	r.Header.Set("Authorization", "Bearer "+im.token)
	r.Header.Set("Accept", strings.Join(accept, ", "))
}

// get sends a GET request and returns the body of the response, which must have
// status 200.
func get(address string, prepare func(*http.Request)) ([]byte, error) {
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	prepare(r)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// request describes the download of a large blob.
type request struct {
	base, path, token string
	size              int64  // the expected size of the body in bytes
	span              string // the Range header, "" for the whole blob
}

// blob returns the request for the first layer to a registry.
func (im *image) blob(base, repository string) request {
	return request{base, "/v2/" + repository + "/blobs/" + im.digest, im.token, im.size, ""}
}

// file returns the request for the first layer to a server whose root is the
// cache's folder of blobs.
func (im *image) file(base string) request {
	algorithm, hex, _ := strings.Cut(im.digest, ":")
	return request{base, "/" + algorithm + "/" + hex[:2] + "/" + hex, "", im.size, ""}
}

// download is the result of a request.
type download struct {
	begun           time.Time
	firstByte, took time.Duration
	hit             bool // according to Cache-Status
}

// do downloads over a new connection.
func (r request) do(copying bool) (download, error) {
	conn, err := r.dial()
	if err != nil {
		return download{}, err
	}
	defer conn.Close()
	return r.on(conn, copying)
}

// dial opens a connection.
func (r request) dial() (*net.TCPConn, error) {
	u, err := url.Parse(r.base)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// on downloads over a connection that has not been used. It reads the body with
// blocking system calls and little work, because clients and servers share the
// cores.
func (r request) on(conn *net.TCPConn, copying bool) (download, error) {
	d, buffered, err := r.begin(conn)
	if err != nil {
		return d, err
	}
	left := r.size - int64(buffered)
	file, err := conn.File()
	if err != nil {
		return d, err
	}
	defer file.Close()
	if err := drain(int(file.Fd()), left, copying); err != nil {
		return d, fmt.Errorf("%s: %w", r.path, err)
	}
	d.took = time.Since(d.begun)
	return d, nil
}

// begin sends the request and waits for the first byte of the body. It returns the
// number of bytes of the body that it has read.
func (r request) begin(conn *net.TCPConn) (d download, buffered int, err error) {
	head := "GET " + r.path + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(r.base, "http://") + "\r\nUser-Agent: bench\r\n"
	status := http.StatusOK
	if r.token != "" {
		head += "Authorization: Bearer " + r.token + "\r\n"
	}
	if r.span != "" {
		head += "Range: " + r.span + "\r\n"
		status = http.StatusPartialContent
	}
	d.begun = time.Now()
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return d, 0, err
	}
	reader := bufio.NewReader(conn)
	// The body is neither read nor closed, because Close would read it.
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		return d, 0, fmt.Errorf("%s: %w", r.path, err)
	}
	if resp.StatusCode != status || resp.ContentLength != r.size {
		return d, 0, fmt.Errorf("%s %s: got %s with %d bytes, want %d with %d bytes", r.path, r.span, resp.Status, resp.ContentLength, status, r.size)
	}
	d.hit = strings.HasSuffix(resp.Header.Get("Cache-Status"), "; hit")
	if _, err := reader.Peek(1); err != nil {
		return d, 0, err
	}
	d.firstByte = time.Since(d.begun)
	return d, reader.Buffered(), nil
}

// drain reads exactly n bytes from a socket. Unless copying is set, the kernel
// discards the bytes instead of copying them (MSG_TRUNC, tcp(7)).
func drain(fd int, n int64, copying bool) error {
	if err := syscall.SetNonblock(fd, false); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	flags := syscall.MSG_TRUNC
	if copying {
		flags = 0
	}
	for n > 0 {
		got, _, err := syscall.Recvfrom(fd, buf[:min(int64(len(buf)), n)], flags)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case got == 0:
			return fmt.Errorf("%d bytes short: %w", n, io.ErrUnexpectedEOF)
		default:
			n -= int64(got)
		}
	}
	return nil
}
