# What a Windows guest shows of itself, for the diagnosis. It changes nothing, writes no file, bounds
# every command and prints to standard output in UTF-8 what docs/explanation/diagnosis.md describes
# under "Papers". Windows PowerShell 2.0 to 5.1. TOKEN: 32 hexadecimal digits.
param([string]$token)

$ErrorActionPreference = 'SilentlyContinue'
$commandSeconds = 20
$wholeSeconds = 75
$commandBytes = 65536
$fileBytes = 65536
$mostFiles = 12

# NAME | a line for cmd.exe. Tests run these very lines under Wine. Several lines of one name make one
# paper; each of its parts begins with "> STATUS LINE".
$commands = @'
services | sc.exe query "QEMU-GA"
services | sc.exe qc "QEMU-GA"
services | sc.exe query "QEMU Guest Agent VSS Provider"
services | sc.exe qc "QEMU Guest Agent VSS Provider"
services | sc.exe query "WindowsAzureGuestAgent"
services | sc.exe qc "WindowsAzureGuestAgent"
services | sc.exe query "RdAgent"
services | sc.exe qc "RdAgent"
services | sc.exe query "IaasVmProvider"
services | sc.exe qc "IaasVmProvider"
services | sc.exe query "VSS"
services | sc.exe qc "VSS"
services | sc.exe query "SQLWriter"
services | sc.exe qc "SQLWriter"
registry-bcdragent | reg.exe query "HKLM\SOFTWARE\MICROSOFT\BCDRAGENT"
registry-qga-vss | reg.exe query "HKLM\SYSTEM\CurrentControlSet\Services\QEMU Guest Agent VSS Provider"
winhttp-proxy | netsh.exe winhttp show proxy
system-proxy | reg.exe query "HKU\S-1-5-18\Software\Microsoft\Windows\CurrentVersion\Internet Settings"
system-proxy | bitsadmin.exe /util /getieproxy localsystem
space | wmic.exe logicaldisk where DriveType=3 get DeviceID,FreeSpace,Size /value <nul || powershell.exe -NoProfile -NonInteractive -Command "Get-WmiObject Win32_LogicalDisk -Filter 'DriveType=3' | Format-List DeviceID,FreeSpace,Size"
load | wmic.exe cpu get LoadPercentage /value <nul || powershell.exe -NoProfile -NonInteractive -Command "Get-WmiObject Win32_Processor | Format-List LoadPercentage"
load | wmic.exe os get FreePhysicalMemory,TotalVisibleMemorySize /value <nul || powershell.exe -NoProfile -NonInteractive -Command "Get-WmiObject Win32_OperatingSystem | Format-List FreePhysicalMemory,TotalVisibleMemorySize"
os | wmic.exe os get Caption,Version,SystemDrive /value <nul || powershell.exe -NoProfile -NonInteractive -Command "Get-WmiObject Win32_OperatingSystem | Format-List Caption,Version,SystemDrive"
events | wevtutil.exe qe Application "/q:*[System[Provider[@Name='VSS' or @Name='SQLWRITER' or @Name='SQLVDI' or @Name='qemu-ga'] and (Level=1 or Level=2) and TimeCreated[timediff(@SystemTime) <= 86400000]]]" /c:20 /rd:true /f:RenderedXml
events | wevtutil.exe qe System "/q:*[System[Provider[@Name='volsnap' or @Name='VDS Basic Provider' or @Name='Virtual Disk Service' or @Name='disk' or @Name='Ntfs'] and (Level=1 or Level=2) and TimeCreated[timediff(@SystemTime) <= 86400000]]]" /c:20 /rd:true /f:RenderedXml
sql-backups | wevtutil.exe qe Application "/q:*[System[(EventID=18264 or EventID=18265 or EventID=18270) and TimeCreated[timediff(@SystemTime) <= 604800000]]]" /c:40 /rd:true /f:xml
antivirus | wevtutil.exe qe "Microsoft-Windows-Windows Defender/Operational" "/q:*[System[(EventID=1116 or EventID=1117) and TimeCreated[timediff(@SystemTime) <= 604800000]]]" /c:20 /rd:true /f:RenderedXml
providers | vssadmin.exe list providers
writers | vssadmin.exe list writers
'@

# The last part of each is shown; newest first where a line fits several.
$files = @'
\WindowsAzure\Logs\WaAppAgent.log
\WindowsAzure\Logs\TransparentInstaller.log
\WindowsAzure\Logs\Plugins\Microsoft.Azure.RecoveryServices.VMSnapshot*\*\*.log
\ProgramData\qemu-ga\*.log
'@

$utf8 = New-Object Text.UTF8Encoding $false
$out = [Console]::OpenStandardOutput()
$codePages = Get-ItemProperty 'HKLM:\SYSTEM\CurrentControlSet\Control\Nls\CodePage'
$oem = [Text.Encoding]::GetEncoding([int]$codePages.OEMCP)
$runner = "$env:SystemRoot\Sysnative\cmd.exe"  # the 64-bit one, as seen from a 32-bit agent
if (-not (Test-Path $runner)) { $runner = "$env:SystemRoot\System32\cmd.exe" }
$latest = [DateTime]::UtcNow.AddSeconds($wholeSeconds)

function Print([string]$text) {
    $bytes = $utf8.GetBytes($text + "`n")
    $out.Write($bytes, 0, $bytes.Length)
}

function Get-Seconds([DateTime]$when) {
    [int64][Math]::Floor(($when - (New-Object DateTime 1970, 1, 1)).TotalSeconds)
}

function Get-Text([byte[]]$bytes, $encoding) {
    if ($bytes.Length -ge 2 -and $bytes[0] -eq 255 -and $bytes[1] -eq 254) {
        return [Text.Encoding]::Unicode.GetString($bytes, 2, $bytes.Length - 2)
    }
    $encoding.GetString($bytes)
}

# The exit status and the beginning of what a line printed; status 124 when it was ended.
function Invoke-Line([string]$line) {
    $until = [DateTime]::UtcNow.AddSeconds($commandSeconds)
    if ($until -gt $latest) { $until = $latest }
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = $runner
    $start.Arguments = '/d /s /c "(' + $line + ') 2>&1"'
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardOutput = $true
    $process = [Diagnostics.Process]::Start($start)
    $pipe = $process.StandardOutput.BaseStream
    $kept = New-Object IO.MemoryStream
    $buffer = New-Object byte[] 16384
    $ended = $false
    while (-not $ended) {
        $left = [int]($until - [DateTime]::UtcNow).TotalMilliseconds
        if ($left -le 0) { break }
        $reading = $pipe.BeginRead($buffer, 0, $buffer.Length, $null, $null)
        if (-not $reading.AsyncWaitHandle.WaitOne($left, $false)) { break }
        $count = $pipe.EndRead($reading)
        $ended = $count -eq 0
        if ($kept.Length -lt $commandBytes) { $kept.Write($buffer, 0, $count) }
    }
    $status = 124
    if ($ended -and $process.WaitForExit(2000)) {
        $status = $process.ExitCode
    } else {
        [void][Diagnostics.Process]::Start($runner, "/d /c taskkill /t /f /pid $($process.Id) >nul 2>&1")
    }
    $status
    (Get-Text $kept.ToArray() $oem) -replace "`r", ''  # wmic.exe ends lines with two of them
}

function Show-File($file) {
    $path = $file.FullName
    try {
        $share = [IO.FileShare]'ReadWrite, Delete'
        $stream = [IO.File]::Open($path, 'Open', 'Read', $share)
        try {
            [void]$stream.Seek(-[Math]::Min($stream.Length, $fileBytes), 'End')
            $bytes = New-Object byte[] $fileBytes
            $count = $stream.Read($bytes, 0, $fileBytes)
            $size = $stream.Length
        } finally { $stream.Close() }
        Print "#$token file $size - - $(Get-Seconds $file.LastWriteTimeUtc) $path"
        Print (Get-Text ([byte[]]$bytes[0..([Math]::Max($count - 1, 0))]) $utf8)
    } catch {
        Print "#$token missing $path $($_.Exception.Message -replace '\s+', ' ')"
    }
}

Print "#$token command date 0"
Print "$(Get-Seconds ([DateTime]::UtcNow))"
$lines = $commands -split "`r?`n" | Where-Object { $_ }
foreach ($group in ($lines | Group-Object { ($_ -split ' \| ', 2)[0] })) {
    $worst = 0
    $parts = @()
    foreach ($entry in $group.Group) {
        $line = ($entry -split ' \| ', 2)[1]
        if ([DateTime]::UtcNow -ge $latest) { $result = @(124, '') } else { $result = @(Invoke-Line $line) }
        if ($result[0] -ne 0) { $worst = $result[0] }
        $parts += "> $($result[0]) $line`n$($result[1])"
    }
    Print "#$token command $($group.Name) $worst"
    Print ($parts -join "`n")
}
foreach ($pattern in ($files -split "`r?`n" | Where-Object { $_ })) {
    Get-ChildItem "$env:SystemDrive$pattern" | Where-Object { -not $_.PSIsContainer } |
        Sort-Object LastWriteTimeUtc -Descending | Select-Object -First $mostFiles |
        ForEach-Object { if ([DateTime]::UtcNow -lt $latest) { Show-File $_ } }
}
Print "#$token end $(Get-Seconds ([DateTime]::UtcNow))"
$out.Flush()
