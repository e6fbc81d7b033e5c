//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// trouble is the log message about a failing disk.
const trouble = "cache storage error"

// TestCacheOutgrowsDisk pulls more than the disk can hold, without a reserve.
func TestCacheOutgrowsDisk(t *testing.T) {
	p := newProxy(t)
	p.storage = "reserve off"
	mountMemory(t, p.cache, "size=24m")
	p.launch(t, lab.mainBody())
	c := loggedIn(t, p)
	fits := lab.push.single(t, "library/fits", "1", 6<<20, 6<<20, 6<<20)
	over := lab.push.single(t, "library/over", "1", 6<<20, 6<<20, 6<<20)
	larger := lab.push.single(t, "library/larger", "1", 30<<20)
	for range 2 {
		for _, img := range []image{fits, over, larger} {
			cranePull(t, c, p.reference("acme", img), img)
		}
	}
	atOnce(t, c, larger, p, p, p, p)
	atOnce(t, c, over, p, p, p, p)
	wantSound(t, p.cache)
	p.says(t, trouble, "was not cached")
}

// TestBlobOutgrowsDisk pulls a layer that does not fit on the disk, without a
// reserve. This is known before the first byte is sent, so upstream sends the
// layer once.
func TestBlobOutgrowsDisk(t *testing.T) {
	p := newProxy(t)
	p.storage = "reserve off"
	mountDisk(t, p, 32<<20)
	p.launch(t, lab.mainBody())
	c := loggedIn(t, p)
	const size = 48 << 20
	img := lab.push.single(t, "library/outgrows", "1", size)
	cranePull(t, c, p.reference("acme", img), img)
	if got := lab.plain.bytesOf(img.layers[0].String()); got < size || got > size+size/16 {
		t.Errorf("upstream sent %d bytes of a layer of %d", got, size)
	}
	if !strings.Contains(p.output(), "the whole cache has room for") {
		t.Errorf("the log is silent about the disk:\n%s", p.tail(20))
	}
}

// TestDiskFull fills the disk with other files, by bytes or by inodes. Pulls
// continue, including those of content that was removed to make room, and the cache
// is used again when there is space.
func TestDiskFull(t *testing.T) {
	for name, disk := range map[string]struct {
		options, storage string
		fill             func(t *testing.T, folder string)
	}{
		"bytes, of the reserve too": {"size=64m", "", fillBytes},
		"bytes, without a reserve":  {"size=64m", "reserve off", fillBytes},
		"inodes":                    {"size=64m,nr_inodes=400", "", fillInodes},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t)
			p.storage = disk.storage
			mountMemory(t, p.cache, disk.options)
			p.launch(t, lab.mainBody())
			c := loggedIn(t, p)
			before := lab.push.single(t, "library/before-the-trouble", "1", 1<<20)
			during := lab.push.single(t, "library/in-trouble", "1", 4<<20, 2<<20)
			cranePull(t, c, p.reference("acme", before), before)

			others := filepath.Join(p.cache, "others")
			must(t, os.Mkdir(others, 0o755))
			disk.fill(t, others)
			cranePull(t, c, p.reference("acme", during), during)
			atOnce(t, c, during, p, p, p)
			cranePull(t, c, p.reference("acme", before), before)

			must(t, os.RemoveAll(others))
			cranePull(t, c, p.reference("acme", during), during)
			lab.plain.forget()
			cranePull(t, c, p.reference("acme", during), during)
			lab.plain.wantNoBlobs(t)
			wantSound(t, p.cache)
		})
	}
}

// fillBytes writes smaller and smaller files until the disk is full.
func fillBytes(t *testing.T, folder string) {
	t.Helper()
	for size := 1 << 20; size > 0; size /= 16 {
		block := make([]byte, size)
		for n := 0; ; n++ {
			err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d-%d", size, n)), block, 0o644)
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			must(t, err)
		}
	}
}

func fillInodes(t *testing.T, folder string) {
	t.Helper()
	for n := 0; ; n++ {
		err := os.Mkdir(filepath.Join(folder, fmt.Sprint(n)), 0o755)
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		must(t, err)
	}
}

// TestDiskTurnsReadOnly remounts the disk read-only and then writable again.
func TestDiskTurnsReadOnly(t *testing.T) {
	p := newProxy(t)
	mountMemory(t, p.cache, "size=256m")
	p.launch(t, lab.mainBody())
	c := loggedIn(t, p)
	before := lab.push.single(t, "library/read-write", "1", 1<<20)
	during := lab.push.single(t, "library/read-only", "1", 2<<20)
	cranePull(t, c, p.reference("acme", before), before)
	remount(t, p.cache, syscall.MS_RDONLY)
	lab.plain.forget()
	cranePull(t, c, p.reference("acme", before), before)
	lab.plain.wantNoBlobs(t)
	atOnce(t, c, during, p, p, p)
	cranePull(t, c, p.reference("acme", during), during)
	remount(t, p.cache, 0)
	cranePull(t, c, p.reference("acme", during), during)
	lab.plain.forget()
	cranePull(t, c, p.reference("acme", during), during)
	lab.plain.wantNoBlobs(t)
	wantSound(t, p.cache)
}

// remount retries until no file is open for writing, as the kernel requires.
func remount(t *testing.T, folder string, flags uintptr) {
	t.Helper()
	await(t, func() error { return syscall.Mount("", folder, "", syscall.MS_REMOUNT|flags, "") })
}

// TestDiskFails shuts a file system down while layers are written to it, as ext4
// does after an error. The pulls in progress succeed.
func TestDiskFails(t *testing.T) {
	p := newProxy(t)
	mountDisk(t, p, 256<<20)
	p.launch(t, lab.mainBody())
	c := loggedIn(t, p)
	stored := lab.push.single(t, "library/stored", "1", 1<<20)
	cold := lab.push.single(t, "library/under-way", "1", 16<<20)
	later := lab.push.single(t, "library/later", "1", 1<<20)
	cranePull(t, c, p.reference("acme", stored), stored)

	token := p.login(t, "alice")
	p.get(t, token, manifestPath("acme", shortName(cold), "1"))
	lab.plain.rate.Store(slowRate)
	defer lab.plain.rate.Store(0)
	body := p.open(t, token, blobPath("acme", shortName(cold), cold.layers[0].String()))
	defer body.Close()
	sum := digest.SHA256.Digester()
	copyTo(t, sum.Hash(), body, 1<<20)
	command(t, "mount", "-o", "remount,abort", p.cache)
	copyTo(t, sum.Hash(), body, -1)
	if sum.Digest() != cold.layers[0] {
		t.Errorf("the download came as %s, want %s", sum.Digest(), cold.layers[0])
	}
	lab.plain.rate.Store(0)
	atOnce(t, c, cold, p, p, p)
	cranePull(t, c, p.reference("acme", later), later)
	cranePull(t, c, p.reference("acme", stored), stored)
	p.says(t, trouble, "was not cached")
}

// TestRenameFails runs Caddy on a disk on which rename fails, once Caddy has
// created its own files.
func TestRenameFails(t *testing.T) {
	p := startProxy(t, lab.mainBody())
	p.login(t, "alice")
	p.stop()
	const calls = "rename,renameat,renameat2"
	// strace -D runs strace as a grandchild, so Caddy can be stopped like any process.
	p.wrap = []string{"strace", "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null",
		"-e", "trace=" + calls, "-e", "inject=" + calls + ":error=EIO"}
	p.launch(t, lab.mainBody())
	c := loggedIn(t, p)
	img := lab.push.single(t, "library/unnamed", "1", 2<<20)
	atOnce(t, c, img, p, p, p)
	cranePull(t, c, p.reference("acme", img), img)
	if !strings.Contains(p.output(), syscall.EIO.Error()) {
		t.Errorf("the log is silent about the disk:\n%s", p.tail(20))
	}
}

// mountDisk mounts a disk for the proxy's cache until the test ends.
func mountDisk(t *testing.T, p *proxy, size int64) {
	t.Helper()
	disk := filepath.Join(p.dir, "disk")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, size))
	must(t, os.Mkdir(p.cache, 0o755))
	command(t, "mkfs.ext4", "-q", disk)
	command(t, "mount", "-o", "loop", disk, p.cache)
	t.Cleanup(func() { command(t, "umount", p.cache) })
}

// mountMemory mounts a file system in memory until the test ends.
func mountMemory(t *testing.T, folder, options string) {
	t.Helper()
	must(t, os.MkdirAll(folder, 0o755))
	must(t, syscall.Mount("tmpfs", folder, "tmpfs", 0, options))
	t.Cleanup(func() { must(t, syscall.Unmount(folder, 0)) })
}

func command(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := runFor(patience, os.Environ(), argv...); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}
