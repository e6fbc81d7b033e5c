package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// secretText must not be part of an error.
const secretText = "secret-that-must-not-leak"

// TestMain runs the tests, or a program that they start: under the name of a
// credential helper, or with the argument "program". The programs end with syscall.Exit,
// because os.Exit takes a second with the race detector.
func TestMain(m *testing.M) {
	switch {
	case strings.HasPrefix(filepath.Base(os.Args[0]), "docker-credential-"):
		syscall.Exit(runHelper(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "program":
		syscall.Exit(runProgram(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// runHelper is a credential helper that knows the server known.example.
func runHelper(args []string) int {
	server, err := io.ReadAll(os.Stdin)
	switch {
	case err != nil || len(args) != 1 || args[0] != "get":
		return 3
	case string(server) == "known.example":
		fmt.Printf(`{"ServerURL":%q,"Username":"<token>","Secret":%q}`, server, secretText)
		return 0
	case string(server) == "nonsense.example":
		fmt.Print(secretText)
		return 0
	case string(server) == "locked.example":
		fmt.Print(secretText)
		return 2
	}
	fmt.Print("credentials not found in native keychain")
	return 1
}

// runProgram is a program of a test.
func runProgram(what string, args []string) int {
	fmt.Fprintln(os.Stderr, secretText)
	switch what {
	case "login":
		fmt.Printf(`{"username":"robot","password":%q}`, secretText)
	case "print":
		fmt.Print(args[0])
	case "environment":
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"environment": os.Environ(), "args": args})
	case "fail":
		fmt.Print(secretText)
		return 7
	case "flood":
		for {
			fmt.Print(strings.Repeat("x", 4096)) // ignores that nobody reads
		}
	case "hang": // with a child that keeps the connection to the address and the output
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return 3
		}
		file, err := conn.(*net.TCPConn).File()
		if err != nil {
			return 3
		}
		child := exec.Command(os.Args[0], "program", "child")
		child.Stdout, child.ExtraFiles = os.Stdout, []*os.File{file}
		if err := child.Start(); err != nil {
			return 3
		}
		if len(args) > 1 { // leave the child behind
			fmt.Printf(`{"username":"robot","password":%q}`, secretText)
			return 0
		}
		select {}
	case "child":
		for {
			time.Sleep(time.Hour)
		}
	}
	return 0
}

// executable returns the path of this program.
func executable(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// testProgram returns a program of runProgram.
func testProgram(t *testing.T, args ...string) *program {
	return &program{path: executable(t), args: append([]string{"program"}, args...)}
}

// wantError checks that an error contains a text and no secret.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secretText) {
		t.Errorf("got error %v, want %q and no secret", err, want)
	}
}

// TestProgramEnvironment checks that a program receives PATH, HOME and the listed
// variables only, and its arguments as they are.
func TestProgramEnvironment(t *testing.T) {
	t.Setenv("PATH", "/bin")
	t.Setenv("HOME", "/root")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("OTHER", secretText)
	p := testProgram(t, "environment", "$HOME; echo", "*")
	p.env = []string{"AWS_REGION", "NOT_SET_ANYWHERE"}
	output, err := p.run(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Environment, Args []string }
	if err := json.Unmarshal(output, &got); err != nil {
		t.Fatal(err)
	}
	if want := "[PATH=/bin HOME=/root AWS_REGION=eu-west-1]"; fmt.Sprint(got.Environment) != want {
		t.Errorf("got environment %v, want %s", got.Environment, want)
	}
	if want := []string{"$HOME; echo", "*"}; fmt.Sprintf("%q", got.Args) != fmt.Sprintf("%q", want) {
		t.Errorf("got arguments %q, want %q", got.Args, want)
	}
}

// TestProgramErrors checks the limits of a program, and that its output is not part
// of an error.
func TestProgramErrors(t *testing.T) {
	_, err := testProgram(t, "fail").run(t.Context(), nil)
	wantError(t, err, "exit code 7")
	_, err = testProgram(t, "flood").run(t.Context(), nil)
	wantError(t, err, "more than 64 KiB")
	_, err = (&program{path: filepath.Join(t.TempDir(), "none")}).run(t.Context(), nil)
	wantError(t, err, "cannot run none")
	output, err := testProgram(t, "print", strings.Repeat("x", maxOutput)).run(t.Context(), nil)
	if err != nil || len(output) != maxOutput {
		t.Errorf("got %d bytes, error %v, want %d bytes", len(output), err, maxOutput)
	}
}

// TestProgramGroupIsKilled checks that a program that does not end is killed, and
// that its children are too, even if the program itself has ended.
func TestProgramGroupIsKilled(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accept := func() net.Conn {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	// The connection ends once the program and its child have ended.
	wantEnd := func(conn net.Conn) {
		t.Helper()
		if conn == nil {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("got error %v, want that all processes have ended", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan net.Conn, 1)
	go func() {
		started <- accept()
		cancel()
	}()
	_, err = testProgram(t, "hang", listener.Addr().String()).run(ctx, nil)
	wantError(t, err, "did not end")
	wantEnd(<-started)

	go func() { started <- accept() }()
	output, err := testProgram(t, "hang", listener.Addr().String(), "leave").run(t.Context(), nil)
	if err != nil || !strings.Contains(string(output), "robot") {
		t.Errorf("got %s, error %v, want the login", output, err)
	}
	wantEnd(<-started)
}
