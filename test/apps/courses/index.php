<?php
// One file, no framework: routes, pages and storage of the test application. See README.md.
declare(strict_types=1);
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);

const FILES = '/var/lib/courses';

function db(): mysqli
{
    static $db = null;
    if ($db === null) {
        $host = getenv('COURSES_DB_HOST') ?: 'localhost';
        $db = new mysqli($host, getenv('COURSES_DB_USER') ?: 'courses', getenv('COURSES_DB_PASSWORD') ?: 'courses',
            getenv('COURSES_DB_NAME') ?: 'courses', null, '/run/mysqld/mysqld.sock');
        $db->set_charset('utf8mb4');
        $db->query('CREATE TABLE IF NOT EXISTS course (
            id INT AUTO_INCREMENT PRIMARY KEY, title VARCHAR(200) NOT NULL, bytes BIGINT NOT NULL, sha256 CHAR(64) NOT NULL)');
        $db->query('CREATE TABLE IF NOT EXISTS lesson (
            course INT NOT NULL, number INT NOT NULL, body MEDIUMTEXT NOT NULL, PRIMARY KEY (course, number))');
    }
    return $db;
}

function rows(string $sql, mixed ...$args): array
{
    return db()->execute_query($sql, $args)->fetch_all(MYSQLI_ASSOC);
}

function page(string $title, string $body): void
{
    $ini = '/etc/courses/site.ini';
    $site = is_file($ini) ? parse_ini_file($ini)['name'] : 'Courses';
    $e = fn(string $s): string => htmlspecialchars($s);
    header('Content-Type: text/html; charset=utf-8');
    echo "<!doctype html><title>{$e($title)}</title><h1>{$e($site)}</h1><h2>{$e($title)}</h2>\n$body";
}

function text(string $s): void
{
    header('Content-Type: text/plain; charset=utf-8');
    echo $s;
}

function add(int $courses, int $kb): void
{
    $words = ['ark', 'box', 'boat', 'harbour', 'layer', 'chunk', '箱', '舟', 'wave', 'storm'];
    for ($i = 0; $i < $courses; $i++) {
        db()->begin_transaction();
        db()->query("INSERT INTO course (title, bytes, sha256) VALUES ('', 0, '')");
        $id = db()->insert_id;
        $data = random_bytes($kb * 512) . str_repeat(str_pad("course $id ", 512, '.'), $kb);
        $sum = hash('sha256', $data);
        db()->execute_query('UPDATE course SET title = ?, bytes = ?, sha256 = ? WHERE id = ?', ["Course $id", strlen($data), $sum, $id]);
        for ($n = 1; $n <= 5; $n++) {
            $body = '';
            for ($w = 0; $w < 400; $w++) {
                $body .= $words[random_int(0, count($words) - 1)] . ' ';
            }
            db()->execute_query('INSERT INTO lesson VALUES (?, ?, ?)', [$id, $n, $body]);
        }
        file_put_contents(FILES . "/$id.part", $data);
        rename(FILES . "/$id.part", FILES . "/$id.bin");
        db()->commit();
    }
    text("added $courses\n");
}

function checksum(): void
{
    $out = '';
    foreach (rows('CHECKSUM TABLE course, lesson EXTENDED') as $t) {
        $out .= "{$t['Table']} {$t['Checksum']}\n";
    }
    $files = glob(FILES . '/*.bin');
    natsort($files);
    foreach ($files as $f) {
        $out .= basename($f) . ' ' . hash_file('sha256', $f) . "\n";
    }
    text($out);
}

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
parse_str(parse_url($_SERVER['REQUEST_URI'], PHP_URL_QUERY) ?? '', $query);
$id = (int)($query['id'] ?? 0);

try {
    switch ($_SERVER['REQUEST_METHOD'] . ' ' . $path) {
        case 'GET /':
            $list = '';
            foreach (rows('SELECT id, title, bytes, (SELECT COUNT(*) FROM lesson WHERE course = id) AS lessons FROM course ORDER BY id') as $c) {
                $list .= "<li><a href=\"/course?id={$c['id']}\">{$c['title']}</a>: {$c['lessons']} lessons, {$c['bytes']} bytes\n";
            }
            page('All courses', "<ul>\n$list</ul>\n");
            break;
        case 'GET /course':
            $course = rows('SELECT title, sha256 FROM course WHERE id = ?', $id)[0] ?? throw new OutOfRangeException("no course $id");
            $body = "<p><a href=\"/file?id=$id\">attachment</a> {$course['sha256']}\n";
            foreach (rows('SELECT number, body FROM lesson WHERE course = ? ORDER BY number', $id) as $l) {
                $body .= "<h3>Lesson {$l['number']}</h3><p>{$l['body']}\n";
            }
            page($course['title'], $body);
            break;
        case 'GET /file':
            $file = FILES . "/$id.bin";
            is_file($file) || throw new OutOfRangeException("no file $id");
            header('Content-Type: application/octet-stream');
            readfile($file);
            break;
        case 'GET /checksum':
            checksum();
            break;
        case 'GET /health':
            rows('SELECT COUNT(*) FROM course');
            is_writable(FILES) || throw new RuntimeException('no directory of files');
            text("ok\n");
            break;
        case 'POST /add':
            add((int)($query['courses'] ?? 1), (int)($query['kb'] ?? 64));
            break;
        default:
            throw new OutOfRangeException("no page $path");
    }
} catch (OutOfRangeException $e) {
    http_response_code(404);
    text($e->getMessage() . "\n");
} catch (Throwable $e) {
    http_response_code(503);
    text($e->getMessage() . "\n");
}
